// Makes the form of /anime answer in place: a preview at once, the genres when the server has them.
// Without this file the form still works; the server then answers with the whole page. What is shown is always
// the server's own markup: the answer's section is taken out of the page that it sends.

const form = document.getElementById("poster-form");
const samples = document.getElementById("samples");
const input = document.getElementById("poster");
const drop = document.getElementById("drop");
const preview = document.getElementById("preview");
const invitation = document.getElementById("invitation");
const button = form.querySelector("button");
const answer = document.getElementById("answer");
const status = document.getElementById("status");

const SLOW_AFTER_MS = 4000;
const WAKING = "Still waiting. The function may be waking up, which can take a minute.";
const LOST = "This page’s own server did not answer. Check your connection and try again.";

let asking = null; // the AbortController of the request under way

invitation.textContent = "Choose or drop a poster";

input.addEventListener("change", () => {
  if (input.files.length) ask(new FormData(form), input.files[0]);
});

// Browsers open the choice of a file on Space only.
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  input.click();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (input.files.length) ask(new FormData(form), input.files[0]);
});

samples.addEventListener("submit", (event) => {
  event.preventDefault();
  const data = new FormData();
  data.append("sample", event.submitter.value);
  form.reset();
  show(event.submitter.querySelector("img").src);
  ask(data, null);
});

// The input takes drops by itself; this only shows where.
for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, () => drop.classList.add("over"));
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));

async function ask(data, file) {
  asking?.abort();
  const request = new AbortController();
  asking = request;
  if (file) show(URL.createObjectURL(file));
  if (file && file.size > Number(form.dataset.maxBytes)) {
    settle(request, refusal(form.dataset.tooLarge));
    return;
  }
  wait("Asking the model …");
  const slow = setTimeout(() => wait(WAKING), SLOW_AFTER_MS);
  try {
    const response = await fetch(form.action, {
      method: "POST",
      body: data,
      headers: { Accept: "text/html" },
      signal: request.signal,
    });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const section = page.getElementById("answer");
    settle(request, section ? [...section.childNodes] : refusal(LOST));
  } catch (error) {
    if (error.name !== "AbortError") settle(request, refusal(LOST));
  } finally {
    clearTimeout(slow);
  }
}

function show(address) {
  if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
  preview.src = address;
  preview.hidden = false;
  invitation.textContent = "Choose or drop another";
}

preview.addEventListener("error", () => {
  preview.hidden = true; // not an image; the function says so in its own words
});

function wait(text) {
  const block = element("div", "waiting");
  const dots = element("div", "dots");
  dots.append(element("span"), element("span"), element("span"));
  block.append(dots, element("p", "", text));
  answer.replaceChildren(block);
  answer.setAttribute("aria-busy", "true");
  button.disabled = true;
  bringIntoView();
  status.textContent = text;
}

function settle(request, nodes) {
  if (request !== asking) return;
  asking = null;
  answer.replaceChildren(...nodes);
  answer.setAttribute("aria-busy", "false");
  button.disabled = false;
  bringIntoView();
  // An error is an alert and is read by itself; of an answer the summary is read.
  const summary = answer.querySelector(".error") ? null : answer.querySelector(".summary");
  status.textContent = summary ? summary.textContent : "";
}

// On a phone the answer stands below the form.
function bringIntoView() {
  if (answer.getBoundingClientRect().top > window.innerHeight - 200) answer.scrollIntoView({ block: "start" });
}

function refusal(text) {
  const block = element("div", "error");
  block.setAttribute("role", "alert");
  block.append(element("h2", "", "That did not work"), element("p", "summary", text));
  return [block];
}

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
