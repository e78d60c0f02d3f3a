// The poster beside its genres, and the heat map over it.

const stage = document.getElementById("stage");
const preview = document.getElementById("preview");
const placeholder = document.getElementById("placeholder");
const heat = document.getElementById("heat");
const caption = document.getElementById("caption");

// `picture` is a blob:, data: or local URL; a poster on another site has none.
export function showPoster({ name, picture, address }) {
  if (preview.src.startsWith("blob:") && preview.src !== picture) URL.revokeObjectURL(preview.src);
  if (picture) {
    preview.src = picture;
  } else {
    preview.removeAttribute("src");
    placeholder.textContent = address ? placeholder.dataset.address : placeholder.dataset.unreadable;
  }
  preview.alt = `The poster: ${name}`;
  preview.hidden = !picture;
  placeholder.hidden = Boolean(picture);
  stage.hidden = false;
  hideHeat();
}

// The picture of a poster that the function fetched comes with its first heat map.
export function showFetched(picture) {
  preview.src = picture;
  preview.hidden = false;
  placeholder.hidden = true;
}

preview.addEventListener("error", () => {
  preview.hidden = true; // not an image, or a format that the browser does not support; the function says which
  placeholder.textContent = placeholder.dataset.unreadable;
  placeholder.hidden = false;
});

export function showHeat(genre, image) {
  heat.src = image;
  heat.alt = `Heat map for ${genre}`;
  heat.hidden = false;
  stage.classList.add("hot");
  caption.textContent = `Brighter areas support ${genre} more.`;
}

// Points to the switches.
export function invite() {
  caption.textContent = caption.dataset.invitation;
}

export function hideHeat(reason = "") {
  heat.hidden = true;
  heat.removeAttribute("src");
  stage.classList.remove("hot");
  caption.textContent = reason;
}
