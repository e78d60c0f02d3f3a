// The switch "Show where" of each genre: the function's heat map for it is laid over the poster, one at a time.

import { say } from "./elements.js";
import { LOST, SLOW_AFTER_MS, WAKING, send } from "./sending.js";
import { hideHeat, invite, showHeat } from "./stage.js";

const result = document.getElementById("result");

let poster = null; // the one that can be asked about again
let known = new Map(); // its heat maps, by genre
let asking = null; // the AbortController of the request under way

// Offers the switches of the answer that is shown; without a poster they are hidden.
export function offerHeat(shown) {
  asking?.abort();
  poster = shown;
  known = new Map();
  const buttons = result.querySelectorAll(".where");
  for (const button of buttons) button.hidden = !shown;
  if (shown && buttons.length) invite();
}

result.addEventListener("click", (event) => {
  const button = event.target.closest(".where");
  if (!button || !poster) return; // the server's own form answers
  event.preventDefault();
  asking?.abort();
  const on = button.getAttribute("aria-pressed") === "true";
  for (const other of result.querySelectorAll(".where")) other.setAttribute("aria-pressed", "false");
  hideHeat();
  if (!on) {
    show(button);
    return;
  }
  invite();
  say(`The heat map of ${button.dataset.genre} is off.`);
});

async function show(button) {
  const { genre } = button.dataset;
  const request = new AbortController();
  asking = request;
  button.setAttribute("aria-pressed", "true");
  const slow = setTimeout(() => tell(WAKING), SLOW_AFTER_MS);
  try {
    if (!known.has(button.value)) {
      tell(`Looking for ${genre} …`);
      known.set(button.value, await explanation(button.value, request.signal));
    }
    const { image, reason } = known.get(button.value);
    if (image) {
      showHeat(genre, image);
      say(`The heat map of ${genre} is on the poster.`);
    } else {
      give(button, reason);
    }
  } catch (error) {
    if (error.name !== "AbortError") give(button, error instanceof Refusal ? error.message : LOST);
  } finally {
    clearTimeout(slow);
  }
}

class Refusal extends Error {}

async function explanation(genre, signal) {
  const response = await send(poster, { explain: genre, accept: "application/json", signal });
  const body = await response.json();
  if (body.error) throw new Refusal(body.error.message);
  return body.explanation ?? { image: null, reason: "The function gave no heat map." };
}

function give(button, reason) {
  button.setAttribute("aria-pressed", "false");
  tell(reason);
}

function tell(text) {
  hideHeat(text);
  say(text);
}
