// What an EventSource of an npm package reads, one line of JSON an event.
// usage: node eventsource.mjs PACKAGE URL NAME…
const [name, url, ...names] = process.argv.slice(2);
const { EventSource } = await import(name);

const source = new EventSource(url);
for (const one of ["message", ...names]) {
  source.addEventListener(one, ({ type, lastEventId, data }) => {
    console.log(JSON.stringify({ event: type, id: lastEventId, data }));
  });
}
// Neither package's timer for coming back keeps a process alive that does nothing else.
setInterval(() => {}, 1 << 30);
