// Regions that htmx keeps fresh: seconds that count on between two fragments, and one announcement per change.

const started = new WeakMap();

function text(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const parts = [];
  let left = Math.max(Math.floor(seconds), 0);
  for (const [unit, length] of units) {
    const count = Math.floor(left / length);
    left -= count * length;
    if (count || (unit === "s" && !parts.length)) parts.push(`${count} ${unit}`);
  }
  return parts.slice(0, 2).join(" ");
}

function tick() {
  for (const place of document.querySelectorAll(".ticking[data-seconds]")) {
    let known = started.get(place);
    if (!known || known.given !== place.dataset.seconds) {
      known = { given: place.dataset.seconds, at: performance.now() };
      started.set(place, known);
    }
    const now = text(Number(known.given) + (performance.now() - known.at) / 1000);
    if (place.textContent !== now) place.textContent = now;
  }
}

let said = words();

function words() {
  return new Map([...document.querySelectorAll("[data-announce]")].map((place) => [place.id, place.dataset.announce]));
}

function announce() {
  const now = words();
  const changed = [...now].filter(([id, word]) => said.get(id) !== word).map(([, word]) => word);
  said = now;
  if (changed.length) document.getElementById("announcer").textContent = changed.join(". ");
}

// A fragment knows nothing of what somebody has unfolded.
let unfolded = [];

document.body.addEventListener("htmx:before:swap", () => {
  unfolded = [...document.querySelectorAll("details[id][open]")].map((part) => part.id);
});

document.body.addEventListener("htmx:after:swap", () => {
  for (const id of unfolded) document.getElementById(id)?.setAttribute("open", "");
  announce();
  tick();
});
tick();
setInterval(tick, 1000);
