"use strict";
// Keeps the page up to date: asks for itself again, one request at a time, and takes over what has changed.
const EVERY = 2000, PATIENCE = 5000, AT_MOST = 30000; // milliseconds
const live = document.createElement("aside");
const said = document.createElement("p");
const button = document.createElement("button");
let timer = 0, asking = false, paused = false, lost = 0, at = clock();

function clock() {
  return `${new Date().toISOString().slice(11, 19)} UTC`;
}

function become(now, next) {
  if (now.isEqualNode(next)) return;
  if (now.nodeType !== Node.ELEMENT_NODE || now.nodeName !== next.nodeName || now.nodeName === "svg") {
    now.replaceWith(next);
    return;
  }
  for (const { name } of [...now.attributes]) if (!next.hasAttribute(name)) now.removeAttribute(name);
  for (const { name, value } of next.attributes) if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  const known = new Map([...now.children].filter((each) => each.id).map((each) => [each.id, each]));
  let place = now.firstChild;
  for (const wanted of [...next.childNodes]) {
    const same = wanted.id ? known.get(wanted.id) : place && !place.id ? place : null;
    if (!same) {
      now.insertBefore(wanted, place);
      continue;
    }
    if (same !== place) now.insertBefore(same, place);
    place = same.nextSibling;
    become(same, wanted);
  }
  while (place) {
    const further = place.nextSibling;
    place.remove();
    place = further;
  }
}

async function ask() {
  const response = await fetch(location.href, {
    cache: "no-store",
    headers: { accept: "text/html" },
    signal: AbortSignal.timeout(PATIENCE),
  });
  const next = new DOMParser().parseFromString(await response.text(), "text/html");
  // What stands before the service may answer in its place.
  if (!next.getElementById("page")) throw new Error(`it answered ${response.status} and no status page`);
  for (const id of ["page", "icon"]) become(document.getElementById(id), next.getElementById(id));
  if (document.title !== next.title) document.title = next.title;
}

function say(text) {
  if (said.textContent !== text) said.textContent = text;
}

async function renew() {
  clearTimeout(timer);
  if (asking || paused || document.hidden) return;
  asking = true;
  let why = "";
  try {
    await ask();
    at = clock();
    lost = 0;
  } catch (error) {
    lost += 1;
    why = error.name === "Error" ? error.message : "it does not answer";
  }
  asking = false;
  document.body.classList.toggle("lost", lost > 0);
  if (!paused) say(lost ? `Not up to date, ${why}: this is from ${at}` : "Live");
  timer = setTimeout(renew, Math.min(EVERY * 2 ** lost, AT_MOST));
}

button.type = "button";
button.textContent = "Pause";
button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "Go on" : "Pause";
  if (paused) say(`Paused at ${clock()}`);
  else renew();
});
live.setAttribute("aria-label", "Updates");
said.setAttribute("role", "status");
live.append(said, button);
document.body.prepend(live);
document.addEventListener("visibilitychange", renew);
say("Live");
timer = setTimeout(renew, EVERY);
