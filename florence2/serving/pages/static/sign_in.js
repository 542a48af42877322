// The form for an API key. The browser is made to keep it as HTTP Basic credentials, which it then sends by itself with
// pages, pictures and requests of this origin alone; a cookie would be sent to every port of this host.

const found = (id) => document.getElementById(id);

function say(text) {
  found("said").hidden = false;
  found("said").textContent = text;
}

found("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = found("key").value;
  let response;
  try {
    const headers = { Authorization: `Bearer ${key}` };
    response = await fetch(new URL("/v1/models", location.origin), { credentials: "omit", headers });
  } catch {
    say("The server cannot be reached, or this is no API key: it holds other letters than ASCII.");
    return;
  }
  if (response.status === 401) {
    say("The server does not know this key.");
    found("key").select();
    return;
  }
  const keeping = new XMLHttpRequest();
  keeping.open("GET", new URL("/", location.origin), true, "key", key);
  keeping.onloadend = () => location.replace(new URL(location.pathname, location.origin));
  keeping.send();
});
