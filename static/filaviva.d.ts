// Types of filaviva.js; docs/streams.md says what all of it does.

/** What a stream is to follow, and by whose right: a ticket, else the page's cookie. */
export interface Options {
  /** 1 to 64 topics. Left out: those in `url`, else all that the ticket names. */
  topics?: string[];
  /** Of a ticket's answer, `ticket` and `topic` in its query included. Default: /api/v1/events. */
  url?: string;
  ticket?: string;
  /** A fresh ticket when the old one has expired; null: there is none to be had. */
  renew?: () => Promise<string | null>;
  /** Whose cookie it is. Tabs with different accounts share nothing. */
  account?: string;
  /** The id of the last event that the page knows already. */
  after?: string | null;
  /** First the present state of the topics, unless `after` is given; and after each reset. */
  snapshot?: boolean;
  /** For screens: after a gap the newest state of an order or product, perhaps not those before. */
  coalesce?: "latest";
  on?: Handlers;
}

/** By name: an event's type, all of a kind (`order.*`), every event (`*`), or what else there is. */
export type Handlers = {
  [Name in keyof Told]?: (told: Told[Name]) => void;
};

export interface Told {
  "*": Event;
  "order.*": OrderEvent;
  "queue.*": Event<QueueData>;
  "stock.*": Event<StockData>;
  snapshot: Snapshot;
  reset: Reset;
  counts: Counts;
  position: Position;
  state: State;
  [order: `order.${string}`]: OrderEvent;
  [queue: `queue.${string}`]: Event<QueueData>;
  [stock: `stock.${string}`]: Event<StockData>;
  [favourites: `favourites.${string}`]: Event<FavouritesData>;
}

export type OrderEvent = Event<OrderData>;

export type State =
  | { readonly name: "connecting" | "live" }
  | {
      /** `at`: ms since 1970 of the next attempt. */
      readonly name: "retrying" | "offline";
      readonly at: number;
      readonly reason: string;
    }
  | {
      readonly name: "ended";
      readonly reason: "closed" | "expired" | "revoked" | "forbidden" | "not_found" | "invalid";
    };

export interface Stream {
  readonly state: State;
  /** The id up to which everything was handed on; null: nothing yet. */
  readonly cursor: string | null;
  /** Where the connection is. */
  readonly via: "shared-worker" | "leader" | "follower" | "alone";
  /** Returns what takes the handler away again. */
  on<Name extends keyof Told>(name: Name, handler: (told: Told[Name]) => void): () => void;
  /**
   * Tries at once, unless the service itself said when or this was done within 15 seconds: for
   * who knows that it answers again. It may be called as often as it answers.
   */
  hurry(): void;
  close(): void;
}

/** Begins to follow. Throws a TypeError where there is nothing to follow. */
export function connect(options: Options): Stream;

/** A CloudEvent; its `id` is a cursor. */
export interface Event<Data = unknown> {
  specversion: "1.0";
  id: string;
  source: string;
  type: string;
  subject: string;
  time: string;
  data: Data;
}

export interface Item {
  sku: string;
  quantity: number;
  amount_cents: number | null;
}

export interface OrderData {
  id: string;
  reference: string | null;
  customer: string;
  queue: string;
  previous_queue: string | null;
  status: string;
  previous_status: string | null;
  reason: string | null;
  version: number;
  cancel_requested: boolean;
  /** With order.created only. */
  items: Item[] | null;
  total_cents: number | null;
  currency: string;
  available_at: string;
  expires_at: string | null;
  created_at: string;
  updated_at: string;
  finished_at: string | null;
}

export interface QueueData {
  name: string;
  description: string;
  lease_seconds: number;
  max_attempts: number;
  max_lost_leases: number;
  backoff_seconds: number;
  retention_days: number;
  paused: boolean;
  version: number;
  actor: string | null;
}

export interface StockData {
  sku: string;
  available: number;
  previous_available: number;
  state: "out" | "low" | "in_stock";
  reason: string;
  version: number;
}

export interface FavouritesData {
  customer: string;
  sku: string;
  kept: boolean;
}

/** The whole state of one topic, as of one instant; it takes the place of what was known. */
export interface Snapshot {
  topic: string;
  as_of: string;
  items: Record<string, unknown>[];
  truncated: boolean;
}

export interface Reset {
  reason: "pruned" | "epoch" | "unknown";
  oldest: string;
  head: string;
}

export interface Counts {
  as_of: string;
  queues: {
    name: string;
    paused: boolean;
    counts: Record<string, number>;
    oldest_pending_seconds: number | null;
  }[];
}

export interface Position {
  id: string;
  position: number | null;
  position_exact: boolean | null;
  eta_seconds: number | null;
}
