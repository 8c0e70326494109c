// The clients that run in a page. Each keeps what it reads in `window.told`.
import { fetchEventSource } from "./node_modules/@microsoft/fetch-event-source/lib/esm/index.js";

window.told = [];

export function eventSource(url, names) {
  const source = new EventSource(url);
  for (const one of ["message", ...names]) {
    source.addEventListener(one, ({ type, lastEventId, data }) => {
      window.told.push({ event: type, id: lastEventId, data });
    });
  }
}

export function fetchEvents(url, token) {
  const headers = { Authorization: `Bearer ${token}` };
  fetchEventSource(url, { headers, onmessage: tell, onclose: comeBack });
}

// The same, but it goes on behind the last event that it was told.
export function fetchWholeEvents(url, token) {
  const headers = { Authorization: `Bearer ${token}`, Accept: "text/event-stream" };
  fetchEventSource(url, {
    fetch: (address, request) => fetch(address, { ...request, headers }),
    onmessage: (message) => {
      headers["Last-Event-ID"] = message.id || headers["Last-Event-ID"];
      tell(message);
    },
    onclose: comeBack,
  });
}

function tell({ event, id, data }) {
  window.told.push({ event: event || "message", id, data });
}

function comeBack() {
  throw new Error("ended");
}
