-- wrk's requests. Each has the next key, and after HOW_MANY_KEYS they come again.
-- wrk ... -- NAME HOW_MANY_KEYS BODY_FILE COOKIES_FILE

local cookies, number = {}, 0
local name, keys, body

function init(args)
  name, keys = args[1], tonumber(args[2])
  for line in io.lines(args[3]) do body = line end
  for line in io.lines(args[4]) do cookies[#cookies + 1] = "Cookie: " .. line .. "\r\n" end
end

function request()
  local key = number % keys
  local cookie = cookies[key % math.max(#cookies, 1) + 1] or ""
  number = number + 1
  return "POST /payments HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: " .. #body
    .. "\r\nIdempotency-Key: " .. name .. string.format("%012d", key) .. "\r\n" .. cookie .. "\r\n" .. body
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\nRESULT {"requests":%d,"micros":%d,"not_2xx":%d,"broken":%d,"mean":%.1f,"p99":%.1f}\n',
    summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency.mean, latency:percentile(99)))
end
