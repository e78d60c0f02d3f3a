// Makes /anime answer in place: a poster is chosen, photographed, pasted, dropped, or given by its address; it is
// shown at once, its genres when the server has them. Without this file the forms still work; the server then
// answers with the whole page. What is shown is always the server's own markup: the result is taken out of the
// page that it sends.

import { element, say } from "./elements.js";
import { offerHeat } from "./heat.js";
import { LOST, SLOW_AFTER_MS, WAKING, send } from "./sending.js";
import { showPoster } from "./stage.js";
import { onTry, remember, thumbnail } from "./tries.js";

const form = document.getElementById("poster-form");
const samples = document.getElementById("samples");
const input = document.getElementById("poster");
const photograph = document.getElementById("photograph");
const address = document.getElementById("address");
const drop = document.getElementById("drop");
const invitation = document.getElementById("invitation");
const button = form.querySelector("button");
const answer = document.getElementById("answer");
const result = document.getElementById("result");

let asking = null; // the AbortController of the request under way
let latest = null; // the poster that the form asks about again; none where a file was shown that is not kept

if (!matchMedia("(pointer: coarse)").matches) invitation.textContent = "Choose, drop or paste a poster";

// --- ways in

for (const chooser of [input, photograph]) {
  chooser.addEventListener("change", () => {
    if (chooser.files.length) askAboutFile(chooser.files[0]);
  });
  // Browsers open the choice of a file on Space only.
  chooser.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    chooser.click();
  });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (address.value.trim()) askAboutAddress(address.value.trim());
  else if (latest) ask(latest);
  else {
    say("Choose a poster first.");
    input.click();
  }
});

samples.addEventListener("submit", (event) => {
  event.preventDefault();
  const picture = event.submitter.querySelector("img");
  ask({ sample: event.submitter.value, name: picture.alt, picture: picture.src });
});

document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((pasted) => pasted.type.startsWith("image/"));
  if (file) {
    event.preventDefault();
    askAboutFile(file, "the clipboard");
    return;
  }
  if (isTextField(event.target)) return;
  askAboutText(event.clipboardData.getData("text"));
});

for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over"); // it has left the window, not just one element
});
document.addEventListener("drop", (event) => {
  drop.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (!file && isTextField(event.target)) return;
  event.preventDefault();
  if (file) askAboutFile(file);
  else askAboutText(event.dataTransfer.getData("text/uri-list") || event.dataTransfer.getData("text"));
});

function askAboutFile(file, name = file.name) {
  ask({ file, name, picture: URL.createObjectURL(file) });
}

function askAboutAddress(text) {
  ask({ address: text, name: text, picture: null });
}

function askAboutText(text) {
  if (/^https:\/\/\S+$/.test(text.trim())) askAboutAddress(text.trim());
}

function isTextField(target) {
  return target instanceof HTMLInputElement && target.type === "text";
}

// --- a question and its answer

async function ask(poster) {
  asking?.abort();
  const request = new AbortController();
  asking = request;
  fillForm(poster);
  showPoster(poster);
  offerHeat(null);
  if (poster.file?.size > Number(form.dataset.maxBytes)) {
    settle(request, refusal(form.dataset.tooLarge));
    return;
  }
  const picture = thumbnail(poster.picture);
  wait("Asking the model …");
  const slow = setTimeout(() => wait(WAKING), SLOW_AFTER_MS);
  try {
    const response = await send(poster, { accept: "text/html", signal: request.signal });
    const nodes = resultIn(await response.text());
    if (request.signal.aborted) return;
    settle(request, nodes ?? refusal(LOST), response.status >= 500 || !nodes ? poster : null);
    if (!nodes || !response.ok) return;
    remember(poster, result, picture);
    offerHeat(poster);
  } catch (error) {
    if (error.name !== "AbortError") settle(request, refusal(LOST), poster);
  } finally {
    clearTimeout(slow);
  }
}

onTry((kept) => {
  asking?.abort();
  asking = new AbortController();
  const shown = { sample: kept.sample, address: kept.address, name: kept.name, picture: kept.thumbnail };
  const again = shown.sample || shown.address ? shown : null; // of a file only the thumbnail is kept
  fillForm(again);
  showPoster(shown);
  settle(asking, resultIn(kept.result));
  offerHeat(again);
});

// The form asks about the poster that is shown, or for one.
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
  answer.setAttribute("aria-busy", "true");
  button.disabled = true;
  bringIntoView();
  say(text);
}

// `again` is the poster to offer another try with, where the failure may pass.
function settle(request, nodes, again = null) {
  if (request !== asking) return;
  asking = null;
  result.replaceChildren(...nodes);
  if (again) {
    const retry = element("button", "quiet", "Try again");
    retry.type = "button";
    retry.addEventListener("click", () => {
      answer.focus({ preventScroll: true }); // the button is going to be gone
      ask(again);
    });
    result.querySelector(".error")?.append(retry);
  }
  answer.setAttribute("aria-busy", "false");
  button.disabled = false;
  bringIntoView();
  // An error is an alert and is read by itself; of an answer the summary is read.
  const summary = result.querySelector(".error") ? null : result.querySelector(".summary");
  say(summary ? summary.textContent : "");
}

// On a phone the answer stands below the form, and above the recent tries.
function bringIntoView() {
  const { top } = answer.getBoundingClientRect();
  if (top < 0 || top > window.innerHeight - 200) answer.scrollIntoView({ block: "start" });
}

function refusal(text) {
  const block = element("div", "error");
  block.setAttribute("role", "alert");
  block.append(element("h2", "", "That did not work"), element("p", "summary", text));
  return [block];
}
