// Who may sign in, and tickets.
import {
  account as own, action, badge, call, copyButton, el, every, filters, find, onAddress, pager,
  params, put, Refused, region, rows, say, sure, when, words,
} from "/static/page.js";

const PATH = "/api/v1/accounts";
const HIDDEN = "…"; // in place of a secret, in a command line that others may see on the screen

const pathOf = (name) => `${PATH}/${encodeURIComponent(name)}`;
const short = (role) => words[`accounts.role.${role}`].split(":")[0];
const isOwn = (name) => name === own;

/** This page with another account, or with none. */
function addressOf(name) {
  const query = params();
  if (name === null) query.delete("account");
  else query.set("account", name);
  return `?${query}`;
}

// --- the list --------------------------------------------------------------------------

const activity = ({ active }) =>
  active
    ? badge("completed", say("accounts.active"))
    : badge("failed", say("accounts.inactive"));

const table = rows(find("#rows"), {
  key: (one) => one.username,
  head: 0,
  cells: (one) => [
    el("a", { href: addressOf(one.username) }, one.username),
    one.roles.map(short).join(", "),
    one.customer ?? "–",
    activity(one),
    one.last_seen_at === null ? say("accounts.never") : when(one.last_seen_at),
    when(one.created_at),
  ],
});

const list = region(
  "list",
  async (signal) => {
    const query = new URLSearchParams({ limit: 50 });
    for (const name of ["prefix", "cursor"]) {
      if (params().get(name)) query.set(name, params().get(name));
    }
    const { items, next_cursor } = await call("GET", `${PATH}?${query}`, { signal });
    table.show(items);
    pager("pages", next_cursor);
    return items.length > 0;
  },
  { empty: say("accounts.empty") },
);

// --- one account -----------------------------------------------------------------------

let chosen = null; // the account that is shown, as the service last told it

const one = region(
  "account",
  async (signal) => {
    const name = params().get("account");
    const query = new URLSearchParams({ prefix: name, limit: 1 });
    const { items } = await call("GET", `${PATH}?${query}`, { signal });
    if (items[0]?.username !== name) return false;
    show(items[0]);
    return true;
  },
  { empty: say("accounts.unknown") },
);

function show(found) {
  const fresh = chosen?.username !== found.username;
  const saved = chosen;
  chosen = found;
  put(find("#state"), activity(found));
  find("#did").href = `/admin/audit?${new URLSearchParams({ account: found.username })}`;
  find("#done-to").href = `/admin/audit?${new URLSearchParams({ target: found.username })}`;
  const verb = found.active ? "deactivate" : "activate";
  find("#activity-title").textContent = say(`accounts.${verb}`);
  find("#activity-about").textContent = say(`accounts.${verb}_about`);
  find("#activity button").textContent = say(`accounts.${verb}`);
  find("#activity button").classList.toggle("stop", found.active);
  // What somebody is about to change stays as he left it.
  if (fresh || JSON.stringify([saved.roles, saved.customer]) !== JSON.stringify([found.roles, found.customer])) {
    for (const box of find("#change").querySelectorAll("[name=role]")) {
      box.checked = found.roles.includes(box.value);
    }
    find("#change [name=customer]").value = found.customer ?? "";
  }
  forms.forEach((form) => form.show());
}

/** Changes of the account that is shown; `body()` null while there is nothing to change. */
const change = (body) => () => {
  const sent = chosen && body();
  return sent ? { method: "PATCH", path: pathOf(chosen.username), body: sent } : null;
};

/** Say at a field what the service says of the whole: `faults` is code → field. */
const sayingAt = (faults, run = call) => async (...wanted) => {
  try {
    return await run(...wanted);
  } catch (error) {
    const field = error instanceof Refused && faults[error.code];
    if (field) error.errors = [{ pointer: `#/${field}`, detail: say(`refused.${error.code}`) }];
    throw error;
  }
};

/** The same call with the password that its command line does not show. */
const withPassword = (form) => (method, path, { body }) =>
  call(method, path, { body: { ...body, password: find("[name=password]", form).value } });

async function changed(answer) {
  show(answer);
  await list();
  return null;
}

const chosenRoles = (form) => [...form.querySelectorAll("[name=role]:checked")].map((box) => box.value);
const customerOf = (form) => find("[name=customer]", form).value.trim() || null;

/** A password that was made up is known to nobody else: it is shown with what became of it. */
function kept(form, name, text) {
  const field = find("[name=password]", form);
  const made = field.type === "text" ? field.value : null;
  field.type = "password";
  field.value = "";
  if (made === null) return text;
  return el("span", {}, text, " ", say("accounts.keep_password", { name }), " ", el("code", {}, made), " ", copyButton(() => made));
}

function makeUp(form) {
  find("[name=generate]", form).addEventListener("click", () => {
    const field = find("[name=password]", form);
    field.value = btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(18))))
      .replaceAll("+", "-")
      .replaceAll("/", "_");
    field.type = "text";
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.focus();
  });
}

/** A form without a role is no request; the browser says so at the first box. */
function demandRole(form) {
  const boxes = [...form.querySelectorAll("[name=role]")];
  const check = () => {
    const some = boxes.some((box) => box.checked);
    boxes[0].setCustomValidity(some ? "" : say("accounts.one_role"));
  };
  form.addEventListener("change", check);
  find("button:not([type])", form).addEventListener("click", check);
}

const newForm = find("#create");
const changeForm = find("#change");
const secretForm = find("#secret");
const byAdmin = { last_admin: "roles" };

const forms = [
  action(
    changeForm,
    change(() => ({ roles: chosenRoles(changeForm), customer: customerOf(changeForm) })),
    { run: sayingAt(byAdmin), done: changed },
  ),
  action(
    secretForm,
    change(() => ({ password: HIDDEN })),
    {
      run: withPassword(secretForm),
      done: (answer) => {
        changed(answer);
        return kept(secretForm, answer.username, say("act.done"));
      },
    },
  ),
  action(
    find("#revoke"),
    change(() => ({ revoke_tokens: true })),
    {
      confirm: () => warned("revoke", say("accounts.revoke")),
      done: async (answer) => {
        await changed(answer);
        return say("accounts.revoked");
      },
    },
  ),
  action(
    find("#activity"),
    change(() => ({ active: !chosen.active })),
    {
      confirm: () => !chosen.active || warned("deactivate", say("accounts.deactivate")),
      run: sayingAt({ last_admin: "active" }),
      done: changed,
    },
  ),
];

function warned(verb, yes) {
  const text = say(`accounts.${verb}_sure`, { name: chosen.username });
  return sure({ text: isOwn(chosen.username) ? `${text} ${say("accounts.revoke_own")}` : text, yes });
}

[newForm, secretForm].forEach(makeUp);
[newForm, changeForm].forEach(demandRole);

action(
  newForm,
  () => ({
    method: "POST",
    path: PATH,
    body: {
      username: find("[name=username]", newForm).value,
      password: HIDDEN,
      roles: chosenRoles(newForm),
      customer: customerOf(newForm),
    },
  }),
  {
    run: sayingAt({ account_exists: "username" }, withPassword(newForm)),
    done: async ({ username }) => {
      const text = kept(newForm, username, say("accounts.made", { name: username }));
      newForm.reset();
      await list();
      return text;
    },
  },
);

// --- tickets ---------------------------------------------------------------------------

const ticketForm = find("#ticket");
const withdrawForm = find("#withdraw");

action(
  ticketForm,
  () => ({
    method: "POST",
    path: "/api/v1/events/tickets",
    body: {
      topics: find("[name=topics]", ticketForm).value.split(/\s+/).filter(Boolean),
      expires_in: Number(find("[name=expires_in]", ticketForm).value),
      max_streams: Number(find("[name=max_streams]", ticketForm).value),
    },
  }),
  {
    done: ({ ticket, url, expires_at }) => {
      put(find("#ends"), say("tickets.made"), " ", when(expires_at, { full: true }));
      put(find("#made-ticket"), el("pre", {}, ticket), copyButton(() => ticket));
      put(find("#made-url"), el("pre", {}, url), copyButton(() => url));
      find("#made").hidden = false;
    },
  },
);

/** The ticket in what was pasted, be it bare or in a link. */
function pasted() {
  const text = find("[name=ticket]", withdrawForm).value.trim();
  const link = URL.canParse(text) ? new URL(text).searchParams.get("ticket") : null;
  return link ?? text;
}

action(
  withdrawForm,
  () => ({ method: "POST", path: "/api/v1/events/tickets/revoke", body: { ticket: HIDDEN } }),
  {
    run: (method, path) => call(method, path, { body: { ticket: pasted() } }),
    done: () => {
      withdrawForm.reset();
      return say("tickets.revoked");
    },
  },
);

// --- the address -----------------------------------------------------------------------

let opened; // the account of the address

function open(query) {
  const name = query.get("account");
  const another = name !== opened && opened !== undefined;
  find("#one").hidden = name === null;
  find("#whose").textContent = name ?? "";
  find("#close").href = addressOf(null);
  if (name !== opened) {
    chosen = null; // nothing is done to one account under the name of another
    find("#account").dataset.state = "loading";
  }
  opened = name;
  if (another && name !== null) find("#whose").focus({ preventScroll: true });
}

function load() {
  list();
  if (opened !== null) one();
}

filters(find("#filters"));
onAddress(open);
addEventListener("popstate", load);
every(15, load);
