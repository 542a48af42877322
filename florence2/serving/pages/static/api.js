// Requests to the server that this page came from, and its errors as they are. Knows one route, that of a picture.

/** What the server answered in place of a result: its status, and `type`, `message`, `field` of its error. */
export class ServerError extends Error {
  constructor(status, { type = "error", message = "", field = null } = {}, retryAfter = null) {
    super(message || `the server answered ${status}`);
    Object.assign(this, { status, type, field, retryAfter });
  }
}

/** An address on this server, free of a name and a key that the page's own address may hold. */
export function address(path) {
  return new URL(path, location.origin).href;
}

/** Where a picture of the store is asked about. */
export const addressOf = (id, rest = "") => `/v1/store/pictures/${encodeURIComponent(id)}${rest}`;

/** Ask; the JSON of the answer. `json` or `form` (FormData) is the body. ServerError where the server refuses. */
export async function ask(path, { method, json, form, signal, headers = {} } = {}) {
  const body = json === undefined ? form : JSON.stringify(json);
  if (json !== undefined) headers = { "Content-Type": "application/json", ...headers };
  method ??= body === undefined ? "GET" : "POST";
  let response;
  try {
    response = await fetch(address(path), { method, body, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, { type: "unreachable", message: "the server cannot be reached; is it still running?" });
  }
  const text = await response.text();
  let value;
  try {
    value = text ? JSON.parse(text) : null;
  } catch {
    throw new ServerError(response.status, { message: `expected JSON from ${path}, got ${text.slice(0, 80)}` });
  }
  if (!response.ok) throw new ServerError(response.status, value?.error, response.headers.get("Retry-After"));
  return value;
}

/** An error in one line, for a person: "422 · asks.0.region: expected ..." */
export function line(error) {
  if (!(error instanceof ServerError)) return error.message;
  const parts = [error.status || null, error.type === "error" ? null : error.type].filter(Boolean).join(" ");
  const message = error.field && !error.message.startsWith(error.field) ? `${error.field}: ${error.message}` : error.message;
  return parts ? `${parts} · ${message}` : message;
}
