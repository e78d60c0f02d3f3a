// Creates elements, and announces changes to screen readers.

const status = document.getElementById("status");

export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

export function say(text) {
  status.textContent = text;
}
