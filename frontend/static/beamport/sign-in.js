// Remembers in this browser, and tells nobody, by which provider somebody signed in last; puts that one first.

const KEY = "sign-in-provider";
const forms = [...document.querySelectorAll("form[data-provider]")];

for (const form of forms) {
  form.addEventListener("submit", () => localStorage.setItem(KEY, form.dataset.provider));
}

const last = forms.find((form) => form.dataset.provider === localStorage.getItem(KEY));
if (last && forms.length > 1) {
  last.querySelector(".used-last").hidden = false;
  last.closest("ul").prepend(last.closest("li"));
}
