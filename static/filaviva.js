// Filaviva's streams in a browser: one connection for all its tabs, which mends itself.
//
//     import { connect } from "/static/filaviva.js";
//     const stream = connect({ topics: ["stock"], on: { "stock.*": (event) => show(event) } });
//
// This one file is both sides: what a page imports, and the shared worker behind all pages.
// Where there is no shared worker, one tab leads the others; where there is no way to elect
// it, each tab is alone. The side that holds the connections is the hub, wherever it runs.
//
// Why nothing is missed or doubled: every tab keeps the cursor of the last event that it
// gave to its page, and whatever serves it, a hub that is new or one that takes over, begins
// at or before that cursor. What is at or before it is dropped. Nobody hands over a state.
//
// The stream is read by `fetch`, not by `EventSource`, which hides heartbeats (a line that
// died in silence looks alive), statuses, and gives up for good at any other than 200.

const NAME = "filaviva-1"; // of the worker, the lock and the channels; with each protocol another
const MOST_TOPICS = 64; // of a stream
const MOST_QUERY = 6_000; // characters of them in an address; the service takes 8 KiB
const MOST_STREAMS = 4; // at once, of six lines that HTTP/1.1 gives a host: pages need some
const MOST_STREAMS_WIDE = 32; // the same over HTTP/2 and 3
const MOST_UNREAD = 5_000; // messages to a tab that does not read
const MOST_BLOCK = 8 << 20; // characters of a frame
const ACK_EVERY = 100; // messages
const TURN = 4_000; // ms; all times are
const CONNECT = 20_000; // to the first byte
const SILENCES = 2.5; // heartbeats without a byte: the line is dead
const SLACK = 5_000;
const FIRST_WAIT = 2_000; // after the first failure, unless the service has said
const LONGEST_WAIT = 60_000;
const PROVEN = 3_000; // a stream that lives so long is no failure; less than a turn
const HURRY = 15_000; // between two tries that a page asked for
const PING = 10_000;
const PINGS_UNANSWERED = 3; // then the hub is dead
const TAB_GONE = 210_000; // without a ping; a hidden tab's timers run once a minute
const START = 10_000; // of a shared worker

const MIXABLE = /^(order:|customer:|queue:|stock:|queues$|stock$)/;
const REFUSALS = { 401: "expired", 403: "forbidden", 404: "not_found" };

// --- cursors -------------------------------------------------------------------------

const parts = (cursor) => [cursor.slice(0, cursor.lastIndexOf("-")), Number(cursor.split("-").pop())];
const sameLog = (one, other) => parts(one)[0] === parts(other)[0];

/** Whether `one` is newer than `other`. Cursors of two logs cannot be compared: then too. */
function isAfter(one, other) {
  return other === null || !sameLog(one, other) || parts(one)[1] > parts(other)[1];
}

/**
 * Where a stream for all of these has to begin; null: one of them has no cursor yet. Of two
 * logs the cursor of whoever came first, which is the older: at that all get their reset.
 */
function lowest(members) {
  return members.map((member) => member.cursor).reduce(lower);
}

function lower(low, next) {
  if (low === null || next === null) return null;
  return sameLog(low, next) && isAfter(low, next) ? next : low;
}

/** The topics that an event belongs to; null if only the service knows. */
function topicsOf({ type, subject, data }) {
  const queues = [data.queue, data.previous_queue].map((name) => `queue:${name}`);
  if (type.startsWith("order.")) return [`order:${subject}`, `customer:${data.customer}`, ...queues];
  if (type.startsWith("queue.")) return [`queue:${subject}`, "queues"];
  if (type.startsWith("stock.")) return [`stock:${subject}`, "stock"];
  return null;
}

// --- one stream ----------------------------------------------------------------------

/** Takes text/event-stream apart, as the service writes it: one line a field. */
class Blocks {
  #rest = "";
  #fields = {};

  constructor(take) {
    this.take = take;
  }

  feed(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    if (this.#rest.length > MOST_BLOCK) throw new RangeError("a frame without an end");
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line !== "") {
      const colon = line.indexOf(": ");
      if (colon > 0) this.#fields[line.slice(0, colon)] = line.slice(colon + 2);
      return;
    }
    const fields = this.#fields;
    this.#fields = {};
    if (fields.event) this.take(fields);
  }
}

/** What an answer means that is no stream. Only the service itself can refuse for good. */
async function refusal(answer) {
  const ours = (answer.headers.get("content-type") ?? "").startsWith("application/problem+json");
  const { status } = answer;
  if (ours && status >= 400 && status < 500 && status !== 408 && status !== 429) {
    return { kind: "refused", reason: REFUSALS[status] ?? "invalid" };
  }
  const after = Number(answer.headers.get("retry-after"));
  const wait = after > 0 ? Math.min(after * 1_000, LONGEST_WAIT) : null;
  return { kind: "broken", reason: `status ${status}`, wait };
}

/** One open answer of the service, and the members that it serves. */
class Flow {
  cursor = null; // everybody here has everything up to it
  settled = false; // it has a cursor
  goodbye = null;
  retry = null; // what the service wishes that we wait
  openedAt = Date.now();
  deadline = Date.now() + CONNECT; // for the next byte
  #patience = CONNECT;
  #settledAt = Infinity;
  #told = false; // of an event
  #queues = new Map(); // the newest counts, for who comes later
  #positions = new Map();
  #asOf = null; // of the counts
  #end = new AbortController();

  constructor(line, members, ticket) {
    this.line = line;
    this.members = new Set(members);
    this.ticket = ticket;
    this.topics = new Set(members.flatMap((member) => member.topics));
    this.coalesces = members.every((member) => member.coalesces); // one may want all there is
    void this.#run(this.#address(lowest(members)));
  }

  close() {
    this.#end.abort();
    // Not as soon as it settles: a proxy may let each stream begin, and cut it then.
    if (this.#told || Date.now() - this.#settledAt >= PROVEN) this.line.failures = 0;
  }

  /** After a sleep or a change of the network: it shall prove soon that it lives. */
  doubt() {
    const soon = Date.now() + Math.min(this.#patience / SILENCES + SLACK, this.#patience);
    this.deadline = Math.min(this.deadline, soon);
  }

  serves(member) {
    const complete = member.coalesces || !this.coalesces;
    return complete && member.topics.every((topic) => this.topics.has(topic));
  }

  attach(member) {
    this.members.add(member);
    member.say({ name: "live" });
    if (this.#queues.size) this.#pass("counts", this.#counts(), "queues", [member]);
    for (const [id, data] of this.#positions) this.#pass("position", data, `order:${id}`, [member]);
  }

  #address(after) {
    const query = new URLSearchParams([...this.topics].map((topic) => ["topic", topic]));
    if (this.ticket !== null) query.set("ticket", this.ticket);
    if (after !== null) query.set("last_event_id", after);
    if (this.coalesces) query.set("coalesce", "latest");
    // Beside a cursor it asks for the state after a reset.
    if ([...this.members].some((member) => member.snapshot)) query.set("snapshot", "1");
    return `${this.line.url}?${query}`;
  }

  async #run(address) {
    const outcome = await this.#read(address).catch((error) => ({
      kind: "broken",
      reason: error instanceof TypeError ? "network" : String(error),
    }));
    if (!this.#end.signal.aborted) this.line.over(this, outcome);
  }

  async #read(address) {
    const answer = await fetch(address, {
      headers: { Accept: "text/event-stream" },
      cache: "no-store",
      credentials: this.ticket === null ? "same-origin" : "omit",
      referrerPolicy: "no-referrer",
      signal: this.#end.signal,
    });
    const kind = answer.headers.get("content-type") ?? "";
    if (!answer.ok || !kind.startsWith("text/event-stream")) return refusal(answer);
    return this.#drain(answer.body.getReader());
  }

  async #drain(reader) {
    const blocks = new Blocks((fields) => this.#take(fields));
    const text = new TextDecoder();
    while (this.goodbye === null) {
      const { done, value } = await reader.read();
      if (done) return { kind: "broken", reason: "network" };
      this.deadline = Date.now() + this.#patience;
      blocks.feed(text.decode(value, { stream: true }));
    }
    return { kind: "goodbye", ...this.goodbye };
  }

  #take({ event, id = null, data, retry }) {
    if (this.#end.signal.aborted) return; // by a frame before it in the same bytes
    if (retry !== undefined) this.retry = Number(retry);
    const value = JSON.parse(data);
    if (value.specversion !== undefined) this.#event(event, id, value);
    else if (event === "hello") this.#hello(id, value);
    else if (event === "reset") this.#reset(id, value);
    else if (event === "snapshot") this.#snapshot(id, value);
    else if (event === "counts" || event === "position") this.#note(event, value);
    else if (event === "bookmark") this.#move(id);
    else if (event === "goodbye") this.goodbye = { reason: value.reason, wait: value.reconnect_ms };
  }

  #hello(id, { heartbeat_seconds: seconds }) {
    this.#patience = seconds * 1_000 * SILENCES;
    this.deadline = Date.now() + this.#patience;
    if (id !== null) this.#move(id);
  }

  #event(type, id, event) {
    this.#told = true;
    this.cursor = id;
    const topics = this.line.exact ? null : topicsOf(event);
    if (type.startsWith("order.")) this.#positions.delete(event.subject);
    if (type === "queue.deleted") this.#queues.delete(event.subject);
    for (const member of [...this.members]) {
      if (!isAfter(id, member.cursor)) continue;
      if (topics === null || topics.some((topic) => member.follows(topic))) member.tell(type, event, id);
      else member.cursor = id;
    }
  }

  /** Without an id the state follows; who did not ask for it is told when that has a cursor. */
  #reset(id, data) {
    this.settled = id !== null && this.settled;
    this.cursor = id;
    for (const member of [...this.members]) {
      member.cursor = id;
      if (id === null && !member.snapshot) member.missed = data;
      else member.tell("reset", data, id);
    }
    if (id !== null) this.#move(id);
  }

  #snapshot(id, data) {
    for (const member of [...this.members]) {
      if (member.snapshot && this.#concerns(member, data.topic)) member.tell("snapshot", data, null);
    }
    if (id !== null) this.#move(id);
  }

  #note(type, data) {
    if (type === "position") {
      this.#positions.set(data.id, data);
      this.#pass(type, data, `order:${data.id}`, this.members);
      return;
    }
    for (const queue of data.queues) this.#queues.set(queue.name, queue);
    this.#asOf = data.as_of;
    this.#pass(type, data, "queues", this.members);
  }

  #counts() {
    return { as_of: this.#asOf, queues: [...this.#queues.values()] };
  }

  #pass(type, data, topic, members) {
    for (const member of [...members]) {
      if (this.#concerns(member, topic)) member.tell(type, data, null);
    }
  }

  #concerns(member, topic) {
    return this.line.exact || member.follows(topic);
  }

  #move(cursor) {
    this.cursor = cursor;
    for (const member of [...this.members]) member.reach(cursor);
    if (this.settled) return;
    this.settled = true;
    this.#settledAt = Date.now();
    this.line.settled(this);
  }
}

// --- the streams of one credential ---------------------------------------------------

/** What one `connect` of one tab follows, as the hub sees it. */
class Member {
  missed = null; // a reset that it is still to be told
  renewing = false;
  #said = "";

  constructor(tab, { id, url, ticket, account, topics, after, snapshot, coalesces, renews }) {
    Object.assign(this, { tab, id, url, ticket, account, topics, snapshot, coalesces, renews });
    this.cursor = after;
  }

  follows(topic) {
    return this.topics.includes(topic);
  }

  tell(type, data, cursor) {
    if (cursor !== null) this.cursor = cursor;
    this.tab.post({ do: "frame", id: this.id, type, data, cursor });
  }

  /** It has everything up to here. */
  reach(cursor) {
    const { missed } = this;
    this.missed = null;
    if (missed !== null) this.tell("reset", missed, cursor);
    else if (isAfter(cursor, this.cursor)) this.tell("cursor", null, cursor);
  }

  say(state) {
    const text = JSON.stringify(state);
    if (text !== this.#said) this.tab.post({ do: "state", id: this.id, state });
    this.#said = text;
  }
}

/**
 * One stream for its members. A newcomer whose topics it does not have, or who wants the
 * state, first opens a stream of his own: so nobody's bad topic ends what others follow.
 * Once that has a cursor, the stream is opened anew with all topics, from the lowest cursor.
 */
class Line {
  main = null;
  trial = null; // of the first newcomer
  members = new Set(); // of `main`
  joining = [];
  retryAt = null;
  failures = 0; // one after the other
  #patient = false; // the service has said when; a wake does not hurry it
  #triedAt = 0;
  #hurriedAt = 0;

  constructor(hub, key, url, exact) {
    Object.assign(this, { hub, key, url, exact });
  }

  get all() {
    return [...this.members, ...this.joining];
  }

  get flows() {
    return [this.main, this.trial].filter((flow) => flow !== null);
  }

  /** Whether one stream can carry these too. */
  hasRoomFor(topics) {
    const all = new Set([...this.all.flatMap((member) => member.topics), ...topics]);
    return all.size <= MOST_TOPICS && [...all].join("topic=%3A&").length <= MOST_QUERY;
  }

  join(member) {
    this.joining.push(member);
    this.step();
  }

  leave(member) {
    this.members.delete(member);
    this.main?.members.delete(member);
    this.joining = this.joining.filter((one) => one !== member);
    if (this.trial?.members.has(member)) {
      this.trial.close();
      this.trial = null;
    }
    if (this.all.length) this.step();
    else this.close();
  }

  close() {
    for (const flow of this.flows) flow.close();
    this.main = this.trial = null;
    this.hub.forget(this);
  }

  /** Whatever comes next: the stream itself, then one newcomer after the other. */
  step() {
    if (this.retryAt !== null || this.trial !== null) return;
    if (this.main?.settled) this.#admit();
    else if (this.main === null && this.members.size) this.main = this.#open([...this.members]);
    else if (this.main === null && this.joining.length) this.trial = this.#open([this.joining[0]]);
  }

  #admit() {
    const [member] = this.joining;
    if (member === undefined) return;
    if (!this.#knows(member)) {
      this.trial = this.#open([member]);
      return;
    }
    this.#merge(member);
    this.step();
  }

  #knows({ cursor, snapshot, topics }) {
    const covered = topics.every((topic) => this.main.topics.has(topic));
    return covered && (cursor === null ? !snapshot : sameLog(cursor, this.main.cursor));
  }

  #merge(member) {
    this.joining = this.joining.filter((one) => one !== member);
    this.members.add(member);
    const { main } = this;
    if (member.cursor === null) member.reach(main.cursor);
    if (main.settled && main.serves(member) && !isAfter(main.cursor, member.cursor)) {
      main.attach(member);
      return;
    }
    main.close();
    this.main = null;
    this.main = this.#open([...this.members]);
  }

  #open(members) {
    const giver = [...members, ...this.all].find((member) => !member.renewing);
    if (giver === undefined || !this.hub.hasPlaceFor(this)) return null;
    this.#triedAt = Date.now();
    this.hub.plan();
    return new Flow(this, members, giver.ticket);
  }

  settled(flow) {
    if (flow === this.trial) this.#accept(flow);
    else this.#say({ name: "live" }, this.members);
    this.step();
  }

  /** The newcomer has a cursor: if nobody else is here, his stream is the stream. */
  #accept(flow) {
    const [member] = flow.members;
    this.trial = null;
    if (this.main !== null || this.members.size) flow.close();
    if (this.main !== null) {
      this.#merge(member);
      return;
    }
    if (this.members.size) this.retryAt = null;
    else this.main = flow;
    this.joining = this.joining.filter((one) => one !== member);
    this.members.add(member);
    if (this.main) member.say({ name: "live" });
  }

  over(flow, outcome) {
    flow.close();
    if (flow === this.main) this.main = null;
    else this.trial = null;
    if (outcome.kind === "refused") this.#refused(flow, outcome.reason);
    else if (outcome.kind === "goodbye" && outcome.wait === null) this.#expelled(flow, outcome.reason);
    else this.#later(flow, outcome);
    this.step();
  }

  /** A union that is refused falls apart: each on his own learns whether it is his topic. */
  #refused(flow, reason) {
    const members = [...flow.members];
    const sets = new Set(members.map((member) => JSON.stringify(member.topics)));
    if (reason === "expired") {
      this.#renew(flow);
    } else if (sets.size === 1) {
      this.#end(members.filter((member) => member.ticket === flow.ticket), reason);
    } else {
      for (const member of members) this.members.delete(member);
      this.joining.push(...members);
      this.#later(flow, { reason, wait: this.#backOff(flow) });
    }
  }

  #expelled(flow, reason) {
    const mine = this.all.filter((member) => member.ticket === flow.ticket);
    if (reason === "revoked") this.#end(mine, reason);
    else if (mine.some((member) => member.renews)) this.#renew(flow);
    // A session that was used meanwhile lives on: the answer to the next stream tells.
    else this.#later(flow, { reason, wait: this.#backOff(flow) });
  }

  #renew(flow) {
    const spent = this.all.filter((member) => member.ticket === flow.ticket);
    for (const member of spent.filter(({ renews, renewing }) => renews && !renewing)) {
      member.renewing = true;
      member.say({ name: "connecting" });
      member.tab.post({ do: "renew", id: member.id });
    }
    this.#end(spent.filter((member) => !member.renews), "expired");
  }

  renewed(member, ticket) {
    member.renewing = false;
    member.ticket = ticket;
    this.step();
  }

  /** All at once: whoever is left goes on without them. */
  #end(members, reason) {
    for (const member of members) this.members.delete(member);
    this.joining = this.joining.filter((member) => !members.includes(member));
    for (const member of members) this.hub.end(member, reason);
  }

  #backOff(flow) {
    const base = flow.retry ?? FIRST_WAIT * (0.5 + Math.random());
    const most = Math.min(base * 2 ** this.failures, LONGEST_WAIT);
    return this.failures++ === 0 ? most : most * (0.5 + Math.random() / 2);
  }

  #later(flow, { kind, reason, wait }) {
    this.#patient = kind !== "broken" || typeof wait === "number";
    this.retryAt = Date.now() + (wait ?? this.#backOff(flow));
    const name = navigator.onLine === false ? "offline" : "retrying";
    this.#say({ name, reason, at: this.retryAt }, this.main === null ? this.all : flow.members);
    this.hub.plan();
  }

  #say(state, members) {
    for (const member of [...members]) member.say(state);
  }

  /** Does what is due, and returns when to come again. */
  look(now) {
    if (this.retryAt !== null && this.retryAt <= now) {
      this.retryAt = null;
      this.step();
    }
    for (const flow of this.flows) {
      if (flow.deadline <= now) this.over(flow, { kind: "broken", reason: "silence", wait: 0 });
    }
    return Math.min(this.retryAt ?? Infinity, ...this.flows.map((flow) => flow.deadline));
  }

  wake(now) {
    for (const flow of this.flows) flow.doubt();
    if (this.#mayTry(now)) this.retryAt = now;
  }

  /** Other calls may be answered all the time while no stream comes through: only now and then. */
  hurry(now) {
    if (!this.#mayTry(now) || now - this.#hurriedAt < HURRY) return;
    this.#hurriedAt = this.retryAt = now;
    this.hub.plan();
  }

  #mayTry(now) {
    return this.retryAt !== null && !this.#patient && now - this.#triedAt > 1_000;
  }

  /** Leaves its place to somebody who waits for one, and goes on later from its cursors. */
  rest() {
    for (const flow of this.flows) flow.close();
    this.main = this.trial = null;
    this.#say({ name: "retrying", reason: "turns", at: Date.now() + TURN }, this.all);
  }
}

// --- the hub: all streams of a browser ------------------------------------------------

/** A page, as the hub sees it: where to send what it follows. */
class Tab {
  members = new Map();
  heardAt = Date.now();
  gone = true; // nothing of it is here
  #unread = 0;

  constructor(hub, send) {
    Object.assign(this, { hub, send });
  }

  post(message) {
    this.send(message);
    if (++this.#unread > MOST_UNREAD) this.hub.drop(this);
  }

  read(count) {
    this.#unread = Math.max(0, this.#unread - count);
  }

  /** It comes back from its cursors once it reads this. */
  lose() {
    this.gone = true;
    this.#unread = 0;
    this.send({ do: "lost" });
  }
}

class Hub {
  id = Math.random().toString(36).slice(2);
  #tabs = new Set();
  #lines = new Map();
  #waiting = new Set(); // lines, for a place
  #most = MOST_STREAMS;
  #timer = null;
  #timerAt = Infinity;

  receive(tab, message) {
    tab.heardAt = Date.now();
    this.#tabs.add(tab);
    const member = tab.members.get(message.id);
    if (message.do === "hi") this.#greet(tab);
    else if (message.do === "join") this.#join(tab, message);
    else if (message.do === "leave" && member) this.#part(member);
    else if (message.do === "ticket" && member) this.#ticket(member, message.ticket);
    else if (message.do === "ping") this.#pong(tab);
    else if (message.do === "ack") tab.read(message.count);
    else if (message.do === "wake") this.#wake();
    else if (message.do === "hurry") member?.line.hurry(Date.now());
    else if (message.do === "bye") this.#forgetTab(tab);
  }

  close() {
    for (const line of [...this.#lines.values()]) line.close();
    clearTimeout(this.#timer);
    this.#tabs.clear();
  }

  #greet(tab) {
    tab.gone = false;
    tab.send({ do: "up", hub: this.id });
  }

  #join(tab, message) {
    tab.gone = false;
    this.#most = message.wide ? MOST_STREAMS_WIDE : MOST_STREAMS;
    const member = new Member(tab, message);
    tab.members.set(member.id, member);
    member.line = this.#lineFor(member);
    member.line.join(member);
  }

  /** By cookie all that can be told apart share a line; a ticket is good for its topics. */
  #lineFor({ url, ticket, account, topics }) {
    const exact = ticket !== null || !topics.every((topic) => MIXABLE.test(topic));
    const set = topics.length || ticket === null ? [...topics].sort() : [ticket];
    for (let number = 0; ; number++) {
      const key = JSON.stringify([url, account, ticket !== null, exact ? set : number]);
      const line = this.#lines.get(key) ?? new Line(this, key, url, exact);
      if (!exact && !line.hasRoomFor(topics) && line.all.length) continue;
      this.#lines.set(key, line);
      return line;
    }
  }

  #ticket(member, ticket) {
    if (ticket === null) this.end(member, "expired");
    else member.line.renewed(member, ticket);
  }

  end(member, reason) {
    member.say({ name: "ended", reason });
    this.#part(member);
  }

  #part(member) {
    member.tab.members.delete(member.id);
    member.line.leave(member);
  }

  #pong(tab) {
    const cursors = [...tab.members.values()].map(({ id, cursor }) => [id, cursor]);
    tab.send({ do: "pong", cursors });
    if (tab.gone) tab.lose();
    this.look();
  }

  #forgetTab(tab) {
    this.#tabs.delete(tab);
    tab.gone = true;
    for (const member of [...tab.members.values()]) this.#part(member);
  }

  drop(tab) {
    this.#forgetTab(tab);
    tab.lose();
  }

  forget(line) {
    this.#lines.delete(line.key);
    this.#waiting.delete(line);
    this.plan();
  }

  #wake() {
    for (const line of [...this.#lines.values()]) line.wake(Date.now());
    this.look();
  }

  // Places: a browser opens six lines to a host, and a page must still load.

  get #open() {
    return [...this.#lines.values()].reduce((sum, line) => sum + line.flows.length, 0);
  }

  hasPlaceFor(line) {
    if (this.#open < this.#most) {
      this.#waiting.delete(line);
      return true;
    }
    this.#waiting.add(line);
    this.plan();
    return false;
  }

  #takeTurns(now) {
    for (const line of [...this.#waiting]) {
      if (this.#open >= this.#most && !this.#makePlace(now)) return;
      this.#waiting.delete(line);
      line.step();
    }
  }

  #makePlace(now) {
    const since = (line) => Math.min(...line.flows.map((flow) => flow.openedAt));
    const [line] = [...this.#lines.values()]
      .filter((one) => one.flows.length && since(one) + TURN <= now)
      .sort((one, other) => since(one) - since(other));
    if (line === undefined) return false;
    line.rest();
    this.#waiting.delete(line); // to the end
    this.#waiting.add(line);
    return true;
  }

  // Time: one timer for everything, by the wall clock, which goes on while a machine sleeps.

  look() {
    const now = Date.now();
    for (const tab of [...this.#tabs]) {
      if (tab.heardAt + TAB_GONE < now) this.drop(tab);
    }
    this.#takeTurns(now);
    const dues = [...this.#lines.values()].map((line) => line.look(now));
    this.#timerAt = Infinity;
    this.plan(Math.min(...dues, now + (this.#waiting.size ? TURN / 4 : LONGEST_WAIT)));
  }

  /** Look at `due` at the latest; without a word, soon. */
  plan(due = Date.now()) {
    if (due >= this.#timerAt || !this.#tabs.size) return;
    clearTimeout(this.#timer);
    this.#timerAt = due;
    this.#timer = setTimeout(() => this.look(), Math.max(0, due - Date.now()));
  }
}

// --- from a page to its hub ------------------------------------------------------------

/** The hub in a shared worker. */
class WorkerLink {
  via = "shared-worker";
  #up = false;

  constructor(page) {
    const worker = new SharedWorker(import.meta.url, { type: "module", name: NAME });
    worker.onerror = () => this.#up || page.fallBack(this);
    this.port = worker.port;
    this.port.onmessage = ({ data }) => {
      this.#up = true;
      page.receive(this, data);
    };
    this.page = page;
    setTimeout(() => this.#up || page.fallBack(this), START);
    this.wake();
  }

  send(message) {
    this.port.postMessage(message);
  }

  wake() {
    this.send({ do: "hi" });
  }

  sleep() {
    this.send({ do: "bye" });
  }

  revive() {
    this.page.fallBack(this);
  }

  close() {
    this.sleep();
    this.port.close();
  }
}

/** The hub in the tab that holds a lock; the others speak to it by channels. */
class ElectedLink {
  #me = Math.random().toString(36).slice(2);
  #all = null;
  #own = null;
  #hub = null; // while this tab leads
  #mine = null; // this tab, as its own hub sees it
  #tabs = new Map();
  #resign = () => {};
  #request = null;

  constructor(page) {
    if (!navigator.locks || !globalThis.BroadcastChannel) throw new TypeError("no election");
    this.page = page;
    this.wake();
  }

  get via() {
    return this.#hub ? "leader" : "follower";
  }

  wake() {
    this.#all = new BroadcastChannel(NAME);
    this.#own = new BroadcastChannel(`${NAME}-${this.#me}`);
    this.#all.onmessage = ({ data }) => this.#overhear(data);
    this.#own.onmessage = ({ data }) => this.page.receive(this, data);
    this.#stand();
    this.send({ do: "hi" });
  }

  /** A frozen tab must neither lead nor pile up what it cannot read. */
  sleep() {
    this.send({ do: "bye" });
    this.#request?.abort();
    this.#abdicate();
    this.#all.close();
    this.#own.close();
    this.#all = null;
  }

  /** The leader does not answer: take its place. */
  revive() {
    if (this.#hub) return;
    this.#request?.abort();
    this.#hold({ steal: true });
  }

  close() {
    this.sleep();
  }

  send(message) {
    if (this.#hub) queueMicrotask(() => this.#hub?.receive(this.#mine, message));
    else this.#all.postMessage({ ...message, from: this.#me });
  }

  #stand() {
    this.#request = new AbortController();
    this.#hold({ signal: this.#request.signal });
  }

  #hold(options) {
    navigator.locks
      .request(NAME, options, () => this.#lead())
      .catch(() => this.#hub && this.#deposed()); // stolen; else we have stopped asking
  }

  #lead() {
    if (this.#all === null) return undefined; // asleep meanwhile
    this.#hub = new Hub();
    this.#mine = new Tab(this.#hub, (message) => {
      const copy = structuredClone(message);
      queueMicrotask(() => this.page.receive(this, copy));
    });
    this.#all.postMessage({ do: "up", hub: this.#hub.id });
    this.send({ do: "hi" });
    return new Promise((resolve) => (this.#resign = resolve));
  }

  #abdicate() {
    this.#hub?.close();
    this.#hub = null;
    for (const { channel } of this.#tabs.values()) channel.close();
    this.#tabs.clear();
    this.#resign();
  }

  #deposed() {
    this.#abdicate();
    this.#stand();
    this.send({ do: "hi" });
  }

  #overhear(message) {
    if (message.do === "up") {
      if (this.#hub) this.#deposed();
      else this.page.receive(this, message);
    } else if (this.#hub) {
      this.#hub.receive(this.#tabOf(message.from), message);
      if (message.do === "bye") this.#close(message.from);
    }
  }

  #tabOf(from) {
    let known = this.#tabs.get(from);
    if (known === undefined) {
      const channel = new BroadcastChannel(`${NAME}-${from}`);
      known = { channel, tab: new Tab(this.#hub, (message) => channel.postMessage(message)) };
      this.#tabs.set(from, known);
    }
    return known.tab;
  }

  #close(from) {
    this.#tabs.get(from).channel.close();
    this.#tabs.delete(from);
  }
}

/** A hub of this tab's own. */
class LocalLink {
  via = "alone";
  #hub = new Hub();

  constructor(page) {
    this.tab = new Tab(this.#hub, (message) => {
      const copy = structuredClone(message);
      queueMicrotask(() => page.receive(this, copy));
    });
    this.wake();
  }

  send(message) {
    queueMicrotask(() => this.#hub.receive(this.tab, message));
  }

  wake() {
    this.send({ do: "hi" });
  }

  sleep() {
    this.send({ do: "bye" });
  }

  revive() {}

  close() {
    this.#hub.close();
  }
}

/** This page: everything that it follows, and its link to the hub. */
class Page {
  streams = new Map();
  #kinds = [WorkerLink, ElectedLink, LocalLink];
  #link = null;
  #hub = null; // the one that knows what we follow
  #asleep = false;
  #unanswered = 0;
  #received = 0;
  #numbers = 0;

  constructor() {
    this.#connect();
    this.#listen();
    setInterval(() => this.#ping(), PING);
  }

  get via() {
    return this.#link.via;
  }

  #connect() {
    for (;;) {
      const kind = this.#kinds.shift();
      try {
        this.#link = new kind(this);
        return;
      } catch (error) {
        if (kind === LocalLink) throw error;
      }
    }
  }

  fallBack(link) {
    if (link !== this.#link) return;
    link.close();
    this.#hub = null;
    this.#unanswered = 0;
    this.#connect();
  }

  #listen() {
    addEventListener("pagehide", () => this.#sleep());
    addEventListener("pageshow", () => this.#wake());
    document.addEventListener("freeze", () => this.#sleep());
    document.addEventListener("resume", () => this.#wake());
    addEventListener("online", () => this.#nudge());
    document.addEventListener("visibilitychange", () => document.hidden || this.#nudge());
  }

  /** A page in the cache or frozen reads nothing: it comes back from its cursors. */
  #sleep() {
    if (this.#asleep) return;
    this.#asleep = true;
    this.#hub = null;
    this.#link.sleep();
  }

  #wake() {
    if (!this.#asleep) return;
    this.#asleep = false;
    this.#unanswered = 0;
    this.#link.wake();
  }

  #nudge() {
    if (this.#asleep) return;
    this.#link.send({ do: "wake" });
    this.#ping();
  }

  hurry(stream) {
    if (!this.#asleep) this.#link.send({ do: "hurry", id: stream.id });
  }

  #ping() {
    if (this.#asleep) return;
    if (this.#unanswered >= PINGS_UNANSWERED) {
      this.#unanswered = 0;
      this.#hub = null;
      this.#link.revive();
    }
    this.#unanswered++;
    this.#link.send({ do: "ping" });
  }

  receive(link, message) {
    if (link !== this.#link || this.#asleep) return;
    if (++this.#received % ACK_EVERY === 0) link.send({ do: "ack", count: ACK_EVERY });
    const stream = this.streams.get(message.id);
    if (message.do === "up") this.#arrive(message.hub);
    else if (message.do === "pong") this.#answered(message.cursors);
    else if (message.do === "lost") this.#lost();
    else if (message.do === "frame") stream?.take(message);
    else if (message.do === "state") stream?.become(message.state);
    else if (message.do === "renew") void stream?.renew();
  }

  #arrive(hub) {
    this.#unanswered = 0;
    if (hub === this.#hub) return;
    this.#hub = hub;
    this.#rejoin();
  }

  #lost() {
    this.#hub = null;
    this.#link.send({ do: "hi" });
  }

  #answered(cursors) {
    this.#unanswered = 0;
    for (const [id, cursor] of cursors) this.streams.get(id)?.reach(cursor);
  }

  /** With new numbers: what is still under way from a hub of before finds nobody. */
  #rejoin() {
    const streams = [...this.streams.values()];
    this.streams.clear();
    for (const stream of streams) this.join(stream);
  }

  join(stream) {
    stream.id = ++this.#numbers;
    this.streams.set(stream.id, stream);
    if (this.#hub !== null) this.#link.send({ do: "join", id: stream.id, ...stream.wish });
  }

  leave(stream) {
    const known = this.streams.delete(stream.id) && this.#hub !== null;
    if (known) this.#link.send({ do: "leave", id: stream.id });
  }

  ticket(stream, ticket) {
    if (this.#hub !== null) this.#link.send({ do: "ticket", id: stream.id, ticket });
  }
}

// --- what a page is given ---------------------------------------------------------------

let page = null; // none before the first `connect`

/** The parts of what `connect` was given, some of which may stand in the address. */
function understood({ url, topics, ticket, account = "", after = null, snapshot = false, coalesce }) {
  const home = /^https?:/.test(import.meta.url) ? import.meta.url : location.href;
  const address = new URL(url ?? "/api/v1/events", url === undefined ? home : location.href);
  const query = address.searchParams;
  return {
    url: address.origin + address.pathname,
    topics: [...new Set(topics ?? query.getAll("topic"))],
    ticket: ticket ?? query.get("ticket"),
    account,
    after,
    snapshot,
    coalesces: (coalesce ?? query.get("coalesce")) === "latest",
    wide: isWide(),
  };
}

/** Whether many streams fit beside each other: over HTTP/2 they do. */
function isWide() {
  const [asked] = performance.getEntriesByName(import.meta.url);
  return /^h[23]/.test(asked?.nextHopProtocol ?? "");
}

class Stream {
  id = 0;
  state = Object.freeze({ name: "connecting" });
  #wish;
  #renew;
  #handlers = new Map();
  #pieces = new Map(); // of snapshots, by topic

  constructor(options) {
    this.#wish = understood(options);
    const { topics, ticket } = this.#wish;
    if (!topics.length && ticket === null && !options.renew) throw new TypeError("no topics");
    this.#renew = options.renew;
    for (const [name, handler] of Object.entries(options.on ?? {})) this.on(name, handler);
    if (this.#wish.ticket === null && this.#renew) void this.#begin();
    else page.join(this);
  }

  /** The id of the last event that was handed on. */
  get cursor() {
    return this.#wish.after;
  }

  get via() {
    return page.via;
  }

  get wish() {
    return { ...this.#wish, renews: this.#renew !== undefined };
  }

  on(name, handler) {
    const handlers = this.#handlers.get(name) ?? new Set();
    this.#handlers.set(name, handlers.add(handler));
    return () => void handlers.delete(handler);
  }

  /** Called wherever the service answers: what waits by its own choice tries at once. */
  hurry() {
    const { name, reason } = this.state;
    if (["retrying", "offline"].includes(name) && reason !== "turns") page.hurry(this);
  }

  close() {
    page.leave(this);
    this.become({ name: "ended", reason: "closed" });
  }

  async #begin() {
    const ticket = await this.#freshTicket();
    if (this.state.name === "ended") return;
    if (ticket === null) this.become({ name: "ended", reason: "expired" });
    else page.join(this);
  }

  async renew() {
    const ticket = await this.#freshTicket();
    if (this.state.name !== "ended") page.ticket(this, ticket);
  }

  /** Asked until it answers; null: there is none to be had. */
  async #freshTicket() {
    for (let wait = FIRST_WAIT; this.state.name !== "ended"; wait = Math.min(wait * 2, LONGEST_WAIT)) {
      try {
        this.#wish.ticket = (await this.#renew()) ?? null;
        return this.#wish.ticket;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, wait * (0.5 + Math.random() / 2)));
      }
    }
    return null;
  }

  reach(cursor) {
    if (cursor !== null && isAfter(cursor, this.#wish.after)) this.#wish.after = cursor;
  }

  take({ type, data, cursor }) {
    if (type === "cursor" || type === "reset") {
      this.#wish.after = cursor;
      if (type === "reset") this.#emit(type, data);
    } else if (type === "snapshot") {
      this.#piece(data);
    } else if (data.specversion === undefined) {
      this.#emit(type, data);
    } else if (isAfter(cursor, this.#wish.after)) {
      this.#wish.after = cursor;
      for (const name of [type, `${type.split(".")[0]}.*`, "*"]) this.#emit(name, data);
    }
  }

  /** A long state comes in pieces, and all over again if the line broke meanwhile. */
  #piece({ topic, as_of, items, more, truncated }) {
    const known = this.#pieces.get(topic);
    const all = known && known.as_of === as_of ? [...known.items, ...items] : items;
    if (more) {
      this.#pieces.set(topic, { as_of, items: all });
    } else {
      this.#pieces.delete(topic);
      this.#emit("snapshot", { topic, as_of, items: all, truncated });
    }
  }

  become(state) {
    if (this.state.name === "ended") return;
    this.state = Object.freeze(state);
    if (state.name === "ended") page.streams.delete(this.id);
    this.#emit("state", this.state);
  }

  /** A handler that falls is told to the page, and the others are still called. */
  #emit(name, data) {
    for (const handler of [...(this.#handlers.get(name) ?? [])]) {
      try {
        handler(data);
      } catch (error) {
        reportError(error);
      }
    }
  }
}

export function connect(options = {}) {
  page ??= new Page();
  return new Stream(options);
}

// --- the shared worker -------------------------------------------------------------------

if (globalThis.SharedWorkerGlobalScope && globalThis instanceof SharedWorkerGlobalScope) {
  const hub = new Hub();
  globalThis.onconnect = ({ ports: [port] }) => {
    const tab = new Tab(hub, (message) => port.postMessage(message));
    port.onmessage = ({ data }) => hub.receive(tab, data);
  };
}
