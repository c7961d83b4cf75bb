// One WebSocket per page. What happens on the portal becomes a DOM event on <body> (`instance-changed`), which htmx
// turns into a fresh fragment. Events are hints: a missed one costs at most the ten seconds of `every 10s`.

const SHORTEST = 1_000;
const LONGEST = 30_000;
const SIGNED_OUT = 4401;
// the portal gives a sign of life every twenty seconds
const SILENCE = 60_000;

let socket = null;
let wait = SHORTEST;
let timer = null;
let heard = 0;

function address() {
  const url = new URL("/ws/events", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

function pass(message) {
  heard = performance.now();
  let event;
  try {
    event = JSON.parse(message.data);
  } catch {
    return;
  }
  // "hello": the portal listens for this page from now on; before that, something may have been said to nobody
  if (event.type === "instance-changed" || event.type === "hello") {
    document.body.dispatchEvent(new CustomEvent("instance-changed", { detail: { id: event.id ?? null } }));
  }
}

function connect() {
  clearTimeout(timer);
  if (socket !== null || document.visibilityState === "hidden") return;
  socket = new WebSocket(address());
  socket.addEventListener("open", () => {
    wait = SHORTEST;
    heard = performance.now();
  });
  socket.addEventListener("message", pass);
  socket.addEventListener("close", (closed) => {
    socket = null;
    if (closed.code === SIGNED_OUT) return;
    timer = setTimeout(connect, wait * (0.75 + Math.random() / 2));
    wait = Math.min(wait * 2, LONGEST);
  });
}

// Signed-out pages have nothing to hear. A page kept for "Back" must not hold a socket, or the browser drops it.
if (document.body.hasAttribute("data-events")) {
  connect();
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") connect();
  });
  addEventListener("online", connect);
  setInterval(() => {
    if (socket !== null && socket.readyState === WebSocket.OPEN && performance.now() - heard > SILENCE) socket.close();
  }, SILENCE / 4);
  addEventListener("pagehide", () => {
    clearTimeout(timer);
    if (socket !== null) socket.close(1000);
  });
  addEventListener("pageshow", (shown) => {
    if (shown.persisted) connect();
  });
}
