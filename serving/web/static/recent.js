// The recent posters: a thumbnail and the genres of each, stored only in this browser's local storage.
// If storage is denied they last as long as the page is open.

import { element, say } from "./elements.js";

const KEY = "anime-genre.tries.2"; // browsers hold entries under this name; change the number if their format changes
const OLD_KEYS = ["anime-genre.tries.1"];
const MOST = 8;
const THUMBNAIL_PIXELS = 240; // its longer side
const NAMED = 3; // genres shown per poster

const section = document.getElementById("recent");
const list = document.getElementById("recent-list");
const when = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

let recent = stored() ?? [];
let denied = false;
let show = () => {};

export function onSelect(listener) {
  show = listener;
}

// `picture` is the promise of a thumbnail. The result is read immediately.
export async function remember(poster, result, picture) {
  const above = [...result.querySelectorAll(".above .name")].map((name) => name.textContent);
  const entry = {
    name: poster.name,
    sample: poster.sample ?? null,
    address: poster.address ?? null,
    size: poster.file?.size ?? null,
    time: new Date().toISOString(),
    genres: above.slice(0, NAMED),
    result: result.outerHTML,
  };
  entry.thumbnail = await picture;
  const others = ((denied ? null : stored()) ?? recent).filter((other) => !same(other, entry));
  recent = [entry, ...others].slice(0, MOST);
  try {
    localStorage.setItem(KEY, JSON.stringify(recent));
  } catch {
    denied = true; // or full; the page itself still has them
  }
  render();
}

// A small JPEG as a data: URL; null if there is no picture or the browser cannot decode it.
export async function thumbnail(picture) {
  if (!picture) return null;
  const image = new Image();
  image.src = picture;
  try {
    await image.decode();
  } catch {
    return null;
  }
  const scale = Math.min(1, THUMBNAIL_PIXELS / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(scale * image.naturalWidth));
  canvas.height = Math.max(1, Math.round(scale * image.naturalHeight));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.75);
}

function same(one, other) {
  return ["name", "sample", "address", "size"].every((key) => one[key] === other[key]);
}

// The stored entries; null if storage is denied or its content is invalid.
function stored() {
  try {
    for (const key of OLD_KEYS) localStorage.removeItem(key);
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return kept.filter((entry) => typeof entry.result === "string" && Array.isArray(entry.genres));
  } catch {
    return null;
  }
}

function render() {
  section.hidden = recent.length === 0;
  list.replaceChildren(
    ...recent.map((entry) => {
      const button = element("button");
      button.type = "button";
      const picture = entry.thumbnail ? element("img") : element("span", "blank", "no picture");
      if (entry.thumbnail) {
        picture.src = entry.thumbnail;
        picture.alt = "";
      }
      const time = element("time", "", when.format(new Date(entry.time)));
      time.dateTime = entry.time;
      button.append(
        picture,
        element("span", "names", entry.genres.join(", ") || `No ${document.body.dataset.label} stands out`),
        element("span", "from", entry.name),
        time,
      );
      button.addEventListener("click", () => show(entry));
      const item = element("li");
      item.append(button);
      return item;
    }),
  );
}

document.getElementById("clear").addEventListener("click", () => {
  recent = [];
  try {
    localStorage.removeItem(KEY);
  } catch {
    // Nothing was stored.
  }
  render();
  say("Recent posters are cleared.");
  document.getElementById("poster").focus({ preventScroll: true });
});

// Another tab has added a poster, or has cleared the list.
window.addEventListener("storage", (event) => {
  if (event.key !== KEY && event.key !== null) return;
  recent = stored() ?? [];
  render();
});

render();
