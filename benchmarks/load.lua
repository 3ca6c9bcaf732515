-- One kind of request: METHOD PATH BODY PREFIX MOST STEP. Every %s in path or body is PREFIX and a number below MOST,
-- every STEP-th, round and round. The last line of the output is JSON.
local method, path, body, prefix, most, step
local n = nil

function init(args)
  method, path, body = args[1], args[2], args[3]
  prefix, most, step = args[4], tonumber(args[5]), tonumber(args[6])
  if not path:find("%%s") and not (body or ""):find("%%s") then
    local fixed = wrk.format(method, path, {["Content-Type"] = "application/json"}, body ~= "" and body or nil)
    request = function() return fixed end
  end
end

function request()
  n = n and (n + step) % most or -step  -- the first is not sent: wrk only looks at it
  local id = prefix .. n
  local filled = body ~= "" and body:gsub("%%s", id) or nil
  local headers = filled and {["Content-Type"] = "application/json"} or nil
  return wrk.format(method, (path:gsub("%%s", id)), headers, filled)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "microseconds": %d, "p50": %f, "p99": %f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
