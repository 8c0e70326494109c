-- wrk: POST one body over and over, and say at the end what came of it, as one line of JSON.
-- An empty body is a GET.
-- usage: wrk … -s post.lua URL -- BODY_FILE TOKEN [unique]
-- `unique` gives every request an idempotency key of its own.

local token, unique

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.body = file:read("*a")
  wrk.method = #wrk.body > 0 and "POST" or "GET"
  file:close()
  token, unique = args[2], args[3] == "unique"
  wrk.headers["Content-Type"] = "application/json"
  if token ~= "none" then wrk.headers["Authorization"] = "Bearer " .. token end
  if unique then
    math.randomseed(os.time() + math.floor(os.clock() * 1e6))
    local run, n = string.format("%08x", math.random(0, 2 ^ 31 - 1)), 0
    request = function()
      n = n + 1
      wrk.headers["Idempotency-Key"] = run .. "-" .. n
      return wrk.format()
    end
  end
end

function done(summary, latency, requests)
  local wrong = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "microseconds": %d, "bytes": %d, "p50_us": %d, "p99_us": %d,'
      .. ' "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99),
    wrong.status, wrong.connect + wrong.read + wrong.write + wrong.timeout))
end
