// How many of a SKU there are, in the words of the API, and as of the newest event.
import { number } from "/static/page.js";

/** A Stock, with what the data of an event says if that is newer: it knows what is available. */
export function newest(stock, event) {
  if (!stock || !event || event.version <= stock.version) return stock;
  return { ...stock, available: event.available, version: event.version };
}

export function stateOf(stock) {
  if (!stock) return "uncounted";
  if (stock.available === 0) return "out";
  return stock.low_at !== null && stock.available <= stock.low_at ? "low" : "in_stock";
}

export const counted = (n) => (n === null || n === undefined ? "–" : number(n));
