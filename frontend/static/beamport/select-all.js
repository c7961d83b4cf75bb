// "Select all" and "Select none" over the experiments; without script the boxes work one by one.

const boxes = [...document.querySelectorAll("[data-pick] input[type=checkbox]")];
const count = document.querySelector("[data-count]");

function tell() {
  if (count) count.textContent = `${boxes.filter((box) => box.checked).length} of ${boxes.length} selected`;
}

for (const button of document.querySelectorAll("[data-select]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    for (const box of boxes) box.checked = button.dataset.select === "all";
    tell();
  });
}
for (const box of boxes) box.addEventListener("change", tell);
addEventListener("pageshow", tell);
