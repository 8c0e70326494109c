// What eventsource-client reads, one line of JSON an event.
// usage: node eventsource-client.mjs URL TOKEN
import { createEventSource } from "eventsource-client";

const [url, token] = process.argv.slice(2);

createEventSource({
  url,
  headers: { Authorization: `Bearer ${token}` },
  onMessage: ({ event = "message", id = "", data }) => {
    console.log(JSON.stringify({ event, id, data }));
  },
});
