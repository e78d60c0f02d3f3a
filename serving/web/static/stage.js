// The poster beside its genres, and the heat map that can be laid over it.

const stage = document.getElementById("stage");
const preview = document.getElementById("preview");
const placeholder = document.getElementById("placeholder");
const heat = document.getElementById("heat");
const caption = document.getElementById("caption");

// `picture` is an address of the browser's own; of a poster elsewhere there is none to show.
export function showPoster({ name, picture, address }) {
  if (preview.src.startsWith("blob:") && preview.src !== picture) URL.revokeObjectURL(preview.src);
  if (picture) {
    preview.src = picture;
    preview.alt = `The poster: ${name}`;
  } else {
    preview.removeAttribute("src");
    placeholder.textContent = address ? placeholder.dataset.address : placeholder.dataset.unreadable;
  }
  preview.hidden = !picture;
  placeholder.hidden = Boolean(picture);
  stage.hidden = false;
  hideHeat();
}

preview.addEventListener("error", () => {
  preview.hidden = true; // no image, or one of a format the browser does not know; the function says which
  placeholder.textContent = placeholder.dataset.unreadable;
  placeholder.hidden = false;
});

export function showHeat(genre, image) {
  heat.src = image;
  heat.alt = `Heat map: where the network sees ${genre}`;
  heat.hidden = false;
  stage.classList.add("hot");
  caption.textContent = `The brighter, the more speaks for ${genre}.`;
}

// Says where the switches are.
export function invite() {
  caption.textContent = caption.dataset.invitation;
}

export function hideHeat(reason = "") {
  heat.hidden = true;
  heat.removeAttribute("src");
  stage.classList.remove("hot");
  caption.textContent = reason;
}
