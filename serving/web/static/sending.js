// Sends a poster to this page's server, and holds the messages for a long wait and for a lost connection.

const form = document.getElementById("poster-form");

export const SLOW_AFTER_MS = 4000;
export const WAKING = "Still waiting. The function may be starting up, which can take a minute.";
export const LOST = "This page’s server did not respond. Check your connection and try again.";

// A poster is a file, a sample or an address. `explain` is the genre whose heat map is wanted.
export function send(poster, { accept, signal, explain = null }) {
  const data = new FormData();
  if (poster.file) data.append("poster", poster.file, poster.name);
  if (poster.sample) data.append("sample", poster.sample);
  if (poster.address) data.append("address", poster.address);
  if (explain !== null) data.append("explain", explain);
  return fetch(form.action, { method: "POST", body: data, headers: { Accept: accept }, signal });
}
