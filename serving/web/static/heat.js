// The switch "Show where" of each genre lays the genre's heat map over the poster, one at a time.

import { say } from "./elements.js";
import { LOST, SLOW_AFTER_MS, WAKING, send } from "./sending.js";
import { hideHeat, invite, showFetched, showHeat } from "./stage.js";

const result = document.getElementById("result");

let poster = null; // the poster that can be sent again
let known = new Map(); // its heat maps by genre
let pending = null; // the AbortController of the current request

// Shows the switches of the current genres; without a poster they are hidden.
export function offerHeat(shown) {
  pending?.abort();
  poster = shown;
  known = new Map();
  const buttons = result.querySelectorAll(".where");
  for (const button of buttons) button.hidden = !shown;
  if (shown && buttons.length) invite();
}

result.addEventListener("click", (event) => {
  const button = event.target.closest(".where");
  if (!button || !poster) return; // the form is submitted instead
  event.preventDefault();
  pending?.abort();
  const on = button.getAttribute("aria-pressed") === "true";
  for (const other of result.querySelectorAll(".where")) other.setAttribute("aria-pressed", "false");
  hideHeat();
  if (!on) {
    show(button);
    return;
  }
  invite();
  say(`The heat map for ${button.dataset.genre} is hidden.`);
});

async function show(button) {
  const { genre } = button.dataset;
  const request = new AbortController();
  pending = request;
  button.setAttribute("aria-pressed", "true");
  const slow = setTimeout(() => showReason(WAKING), SLOW_AFTER_MS);
  try {
    if (!known.has(button.value)) {
      showReason(`Loading the heat map for ${genre} …`);
      known.set(button.value, await explanation(button.value, request.signal));
    }
    const { image, reason, poster: picture } = known.get(button.value);
    if (picture) showFetched(picture);
    if (image) {
      showHeat(genre, image);
      say(`The heat map for ${genre} is shown.`);
    } else {
      fail(button, reason);
    }
  } catch (error) {
    if (error.name !== "AbortError") fail(button, error instanceof Refusal ? error.message : LOST);
  } finally {
    clearTimeout(slow);
  }
}

class Refusal extends Error {}

async function explanation(genre, signal) {
  const response = await send(poster, { explain: genre, accept: "application/json", signal });
  const body = await response.json();
  if (body.error) throw new Refusal(body.error.message);
  return body.explanation ?? { image: null, reason: "The function returned no heat map." };
}

function fail(button, reason) {
  button.setAttribute("aria-pressed", "false");
  showReason(reason);
}

function showReason(text) {
  hideHeat(text);
  say(text);
}
