// Goes on to JupyterLab once this very page has seen the instance become ready: visibly, and only if nobody says no.
// Who has waited for it had the time to say so; a start that is quicker waits for them.
// A page reached by Back never does: whoever comes back wants to be here.

// milliseconds from the first offer to stay
const OFFERED = 1500;

const live = document.getElementById("live");
const arrivedByBack = performance.getEntriesByType("navigation")[0]?.type === "back_forward";

let armed = false;
let offered = null;
let wanted = !arrivedByBack;
let timer = null;

const bar = document.createElement("div");
bar.className = "going notice notice-info";
bar.id = "going";
bar.hidden = true;
const line = document.createElement("p");
const cancel = document.createElement("button");
cancel.type = "button";
cancel.className = "secondary";
bar.append(line, cancel);
live.before(bar);

function show(words, button) {
  line.textContent = words;
  cancel.textContent = button;
  bar.hidden = false;
}

function stay() {
  wanted = false;
  clearTimeout(timer);
  timer = null;
  bar.hidden = true;
  document.getElementById("announcer").textContent = "Staying on this page.";
  (document.getElementById("open") ?? document.getElementById("main")).focus();
}

function go(address) {
  if (timer !== null) return;
  show("Opening JupyterLab…", "Cancel");
  bar.classList.add("going-now");
  document.getElementById("announcer").textContent = "JupyterLab is ready and opens now.";
  timer = setTimeout(() => {
    wanted = false;
    location.assign(address);
  }, Math.max(0, offered + OFFERED - performance.now()));
}

function hold() {
  clearTimeout(timer);
  timer = null;
  bar.classList.remove("going-now");
}

function look() {
  const progress = document.getElementById("progress");
  if (!progress || !wanted) return;
  const { state, moving, usable, target, open } = progress.dataset;
  if (state === "active" && usable === "yes") {
    if (armed) go(open);
    return;
  }
  hold();
  armed = moving === "yes" && target === "active";
  offered = armed ? (offered ?? performance.now()) : null;
  if (armed) show("JupyterLab opens by itself when it is ready.", "Stay on this page");
  else bar.hidden = true;
}

cancel.addEventListener("click", stay);
document.body.addEventListener("htmx:after:swap", look);
addEventListener("pageshow", (shown) => {
  if (!shown.persisted) return;
  hold();
  wanted = false;
  armed = false;
  bar.hidden = true;
});
look();
