-- Arguments: a file of paths, or "-" to request the URL's own path; number of paths to skip;
-- milliseconds between two requests of a connection. Prints the measurements as one JSON object.
local paths, position, pause = {}, 0, 0

function init(args)
  if args[1] ~= "-" then
    for line in io.lines(args[1]) do paths[#paths + 1] = line end
    position = tonumber(args[2])
    request = function()
      position = position + 1
      return wrk.format(nil, paths[(position - 1) % #paths + 1])
    end
  end
  pause = tonumber(args[3])
  if pause > 0 then
    delay = function() return pause end
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\nMEASURED {"requests": %d, "microseconds": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, '
    .. '"not_ok": %d, "broken": %d}\n',
    summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
