// Updates /anime in place: a poster is chosen, photographed, pasted, dropped, or given by its address. The poster is
// shown at once, its genres when the server responds. Without this file the forms still work, and the server responds
// with the whole page. The genres are always the server's own markup, taken from the page that it sends.

import { element, say } from "./elements.js";
import { offerHeat } from "./heat.js";
import { LOST, SLOW_AFTER_MS, WAKING, send } from "./sending.js";
import { showPoster } from "./stage.js";
import { onSelect, remember, thumbnail } from "./recent.js";

const form = document.getElementById("poster-form");
const samples = document.getElementById("samples"); // null if the page offers none
const ask = form.parentElement;
const input = document.getElementById("poster");
const photograph = document.getElementById("photograph");
const address = document.getElementById("address");
const drop = document.getElementById("drop");
const invitation = document.getElementById("invitation");
const button = form.querySelector("button");
const panel = document.getElementById("prediction");
const result = document.getElementById("result");

let pending = null; // the AbortController of the current request
let latest = null; // the poster that the form sends again; null if its file is no longer available

if (!matchMedia("(pointer: coarse)").matches) invitation.textContent = "Choose, drop or paste a poster";

// --- choosing a poster

for (const chooser of [input, photograph]) {
  chooser.addEventListener("change", () => {
    if (chooser.files.length) predictFile(chooser.files[0]);
  });
  // Browsers open the file chooser only on Space.
  chooser.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    chooser.click();
  });
}

// A file that was chosen before this script was there, or that the browser has restored.
const chosenFile = () => [...input.files, ...photograph.files][0];

if (chosenFile()) predictFile(chosenFile());

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (chosenFile()) predictFile(chosenFile());
  else if (address.value.trim()) predictAddress(address.value.trim());
  else if (latest) sendPoster(latest);
  else {
    say("Choose a poster first.");
    input.click();
  }
});

samples?.addEventListener("submit", (event) => {
  event.preventDefault();
  const picture = event.submitter.querySelector("img");
  sendPoster({ sample: event.submitter.value, name: picture.alt, picture: picture.src });
});

document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((pasted) => pasted.type.startsWith("image/"));
  if (file) {
    event.preventDefault();
    predictFile(file, "the clipboard");
    return;
  }
  if (isTextField(event.target)) return;
  predictText(event.clipboardData.getData("text"));
});

for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over"); // it has left the window
});
document.addEventListener("drop", (event) => {
  drop.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (!file && isTextField(event.target)) return;
  event.preventDefault();
  if (file) predictFile(file);
  else predictText(event.dataTransfer.getData("text/uri-list") || event.dataTransfer.getData("text"));
});

function predictFile(file, name = file.name) {
  sendPoster({ file, name, picture: URL.createObjectURL(file) });
}

function predictAddress(text) {
  sendPoster({ address: text, name: text, picture: null });
}

// The text may be a list of addresses with comments (text/uri-list, RFC 2483); its first address is used.
function predictText(text) {
  const lines = text.split("\n").map((line) => line.trim());
  const first = lines.find((line) => line && !line.startsWith("#")) ?? "";
  if (/^https?:\/\/\S+$/.test(first)) predictAddress(first);
  else if (!pending) settle(null, errorBlock("This is neither a picture nor an address that begins with https://."));
}

function isTextField(target) {
  return target instanceof HTMLInputElement && target.type === "text";
}

// --- a request and its response

async function sendPoster(poster) {
  pending?.abort();
  const request = new AbortController();
  pending = request;
  fillForm(poster);
  showPoster(poster);
  offerHeat(null);
  if (poster.file?.size > Number(form.dataset.maxBytes)) {
    settle(request, errorBlock(form.dataset.tooLarge));
    return;
  }
  const picture = thumbnail(poster.picture);
  wait(`Predicting ${document.body.dataset.labels} …`);
  const slow = setTimeout(() => wait(WAKING), SLOW_AFTER_MS);
  try {
    const response = await send(poster, { accept: "text/html", signal: request.signal });
    const nodes = resultIn(await response.text());
    if (request.signal.aborted) return;
    settle(request, nodes ?? errorBlock(LOST), response.status >= 500 || response.status === 429 || !nodes ? poster : null);
    if (!nodes || !response.ok) return;
    remember(poster, result, picture);
    offerHeat(poster);
  } catch (error) {
    if (error.name !== "AbortError") settle(request, errorBlock(LOST), poster);
  } finally {
    clearTimeout(slow);
  }
}

onSelect((kept) => {
  pending?.abort();
  pending = new AbortController();
  const shown = { sample: kept.sample, address: kept.address, name: kept.name, picture: kept.thumbnail };
  const again = shown.sample || shown.address ? shown : null; // the file itself is not stored
  fillForm(again);
  showPoster(shown);
  settle(pending, resultIn(kept.result));
  offerHeat(again);
});

// Makes the form send this poster, or ask for one.
function fillForm(poster) {
  latest = poster;
  form.reset(); // the same file can be chosen again
  address.value = poster?.address ?? "";
}

function resultIn(markup) {
  const found = new DOMParser().parseFromString(markup, "text/html").getElementById("result");
  return found && [...found.childNodes];
}

function wait(text) {
  const block = element("div", "waiting");
  const dots = element("div", "dots");
  dots.append(element("span"), element("span"), element("span"));
  block.append(dots, element("p", "", text));
  result.replaceChildren(block);
  panel.setAttribute("aria-busy", "true");
  button.disabled = true;
  bringIntoView();
  say(text);
}

// `again` is the poster for the button "Try again", if a retry may help.
function settle(request, nodes, again = null) {
  if (request !== pending) return;
  pending = null;
  result.replaceChildren(...nodes);
  if (again) {
    const retry = element("button", "quiet", "Try again");
    retry.type = "button";
    retry.addEventListener("click", () => {
      panel.focus({ preventScroll: true }); // the button will be removed
      sendPoster(again);
    });
    result.querySelector(".error")?.append(retry);
  }
  panel.setAttribute("aria-busy", "false");
  button.disabled = false;
  bringIntoView();
  // Screen readers announce an error because it is an alert. For genres the summary is announced.
  const summary = result.querySelector(".error") ? null : result.querySelector(".summary");
  say(summary ? summary.textContent : "");
}

// On a phone the genres are below the form; there they begin at the top of the screen.
function bringIntoView() {
  const { top } = panel.getBoundingClientRect();
  const below = top >= ask.getBoundingClientRect().bottom;
  if (below || top < 0 || top > window.innerHeight - 200) panel.scrollIntoView({ block: "start" });
}

function errorBlock(text) {
  const block = element("div", "error");
  block.setAttribute("role", "alert");
  block.append(element("h2", "", "That did not work"), element("p", "summary", text));
  return [block];
}
