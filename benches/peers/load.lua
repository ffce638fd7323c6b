-- The requests of wrk: wrk ... -- NAME NUMBER_OF_KEYS BODY_FILE COOKIES_FILE [STATUS]
-- Each request has the next key. After NUMBER_OF_KEYS keys, the first one comes again.
-- With STATUS, answers with another status are counted as refused (wrk itself only counts those over 399).

local threads = {}
local head, tail, keys, number = nil, nil, nil, 0
local cookies = {}
refused = 0

function setup(thread)
  threads[#threads + 1] = thread
end

function init(args)
  local body = io.open(args[3]):read("*a")
  head = "POST /payments HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    .. #body .. "\r\nIdempotency-Key: " .. args[1]
  tail = "\r\n\r\n" .. body
  keys = tonumber(args[2])
  for line in io.lines(args[4]) do cookies[#cookies + 1] = "\r\nCookie: " .. line end
  if args[5] then
    local wanted = tonumber(args[5])
    response = function(status) if status ~= wanted then refused = refused + 1 end end
  end
end

function request()
  local key = number % keys
  number = number + 1
  if #cookies == 0 then return head .. key .. tail end
  return head .. key .. cookies[key % #cookies + 1] .. tail
end

function done(summary, latency, requests)
  local errors, refused = summary.errors, 0
  for _, thread in ipairs(threads) do refused = refused + thread:get("refused") end
  io.write(string.format(
    '\nRESULT {"requests":%d,"micros":%d,"over_399":%d,"refused":%d,"broken":%d,"mean":%.1f,"p99":%.1f}\n',
    summary.requests, summary.duration, errors.status, refused,
    errors.connect + errors.read + errors.write + errors.timeout, latency.mean, latency:percentile(99)))
end
