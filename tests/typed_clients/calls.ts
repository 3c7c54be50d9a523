// Calls every operation with the generated types: `node calls.js ADDRESS`.
// Prints each request: `GET /api/status 200`.

import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./pypi-stats.js";

type Problem = components["schemas"]["Problem"];

const DAYS = 30;

const client = createClient<paths, `application/${string}json`>({ baseUrl: process.argv[2] });
client.use({
  onResponse({ request, response }) {
    console.log(request.method, new URL(request.url).pathname, response.status);
  },
});

const params = { path: { package: "requests" } };

/** The answer, which has to be there. */
function given<Data>({ data }: { data?: Data }): Data {
  assert(data !== undefined);
  return data;
}

function sum(data: { date?: string; downloads: number }[]): number {
  assert(data.every((item) => item.date === undefined || /^\d{4}-\d{2}-\d{2}$/.test(item.date)));
  return data.reduce((total, item) => total + item.downloads, 0);
}

async function callManyPackages(): Promise<void> {
  const recent = given(
    await client.GET("/api/bulk/recent", {
      params: { query: { package: ["requests", "reqeusts"], period: "month" } },
    }),
  );
  assert.deepEqual(recent.missing, ["reqeusts"]);
  assert.equal(recent.data[0].package, "requests");

  const overall = given(
    await client.GET("/api/bulk/overall", {
      params: { query: { package: ["requests", "flask"], mirrors: "false", fill: "zero" } },
    }),
  );
  assert.deepEqual(overall.data.map((series) => series.package), ["flask", "requests"]);
  assert.equal(sum(overall.data[1].data), recent.data[0].data.last_month);

  const systems = given(
    await client.GET("/api/bulk/{breakdown}", {
      params: {
        path: { breakdown: "system" },
        query: { package: ["requests", "reqeusts"], sum: "true" },
      },
    }),
  );
  assert.deepEqual(systems.missing, ["reqeusts"]);
  assert.equal(sum(systems.data[0].data), recent.data[0].data.last_month);
}

async function callPackages(): Promise<void> {
  const recent = given(await client.GET("/api/packages/{package}/recent", { params }));
  const type: "recent_downloads" = recent.type;
  assert.equal(type, "recent_downloads");
  assert.equal(recent.package, "requests");
  const { last_day = 0, last_week = 0, last_month = 0 } = recent.data;
  assert(0 < last_day && last_day < last_week && last_week < last_month);

  const week = given(
    await client.GET("/api/packages/{package}/recent", {
      params: { path: { package: "Requests" }, query: { period: "week" } },
    }),
  );
  assert.deepEqual(week.data, { last_week });

  const overall = given(await client.GET("/api/packages/{package}/overall", { params }));
  assert.equal(overall.data.length, 2 * DAYS);
  const total = given(
    await client.GET("/api/packages/{package}/{breakdown}/total", {
      params: { path: { package: "requests", breakdown: "overall" } },
    }),
  );
  assert.deepEqual(total.data.map((one) => one.category), ["with_mirrors", "without_mirrors"]);
  const without = given(
    await client.GET("/api/packages/{package}/overall", {
      params: { ...params, query: { mirrors: "false" } },
    }),
  );
  assert.equal(sum(without.data), last_month);
}

async function callPythonSupport(): Promise<void> {
  const support = given(await client.GET("/api/packages/{package}/python_support", { params }));
  assert.deepEqual(support.unknown.map((one) => one.version), ["null"]);
  const below = support.data.map((one) => one.below_5_percent);
  assert(below.every((one) => one.date === null && one.reason !== null));
}

async function callBreakdowns(): Promise<void> {
  const recent = given(await client.GET("/api/packages/{package}/recent", { params }));
  // The test inserts calls here, for each breakdown of the registry.
}

async function callRankings(): Promise<void> {
  const top = given(
    await client.GET("/api/top", { params: { query: { period: "week", limit: 200 } } }),
  );
  const type: "top_packages" = top.type;
  assert.equal(type, "top_packages");
  assert.equal(top.days, 7);
  assert.deepEqual(
    top.data.map((one) => one.rank),
    top.data.map((_, index) => index + 1),
  );

  const trending = given(await client.GET("/api/trending"));
  assert(trending.data.every((one) => one.last_week > one.previous_week));

  const found = given(
    await client.GET("/api/search", { params: { query: { q: "reqeusts", limit: 1 } } }),
  );
  assert.deepEqual(found.data.map((one) => one.package), ["requests"]);
  // @ts-expect-error: there is no search for nothing.
  const nothing = await client.GET("/api/search");
  assert.equal(nothing.error?.status, 422);

  const summary = given(await client.GET("/api/packages/{package}", { params })).data;
  assert.equal(summary.rank, found.data[0]?.rank);
  assert.equal(summary.recent.last_month, summary.downloads);
  assert.equal(summary.change.month, null);
  assert(summary.peak !== null && summary.peak.downloads > 0);

  const history = given(
    await client.GET("/api/packages/{package}/history", { params }),
  ).data;
  const counts: number[] = history.months.map((one) => one.without_mirrors);
  assert.equal(history.total.downloads, counts.reduce((one, other) => one + other));
  assert.equal(history.total.downloads, summary.total.downloads);

  const badge = given(
    await client.GET("/api/badges/{package}/{period}", {
      params: { path: { package: "requests", period: "month" } },
    }),
  );
  assert.equal(badge.schemaVersion, 1);
  assert.match(badge.message, /^[0-9.]+[kMBT]\/month$/);
}

async function callStatus(): Promise<void> {
  const status = given(await client.GET("/api/status"));
  assert.equal(status.sample, true);
  assert.equal(status.days, DAYS);
  assert.deepEqual(status.gaps, []);
  assert(status.first_day !== null && status.latest_day !== null);
  assert(status.first_day < status.latest_day);

  const changes = given(await client.GET("/api/changes"));
  assert.equal(changes.data.days.length, status.days);
  const same = given(
    await client.GET("/api/changes", { params: { query: { since: changes.next } } }),
  );
  assert.deepEqual(same.data.days, []);

  const events = given(await client.GET("/api/events"));
  assert(events.data.every((one) => one.end_date === null || one.end_date >= one.date));
  assert(status.events.every((one) => events.data.some((known) => known.date === one.date)));

  const index = given(await client.GET("/"));
  assert.equal(index.status, "/api/status");
  assert.equal(index.data_as_of, status.latest_day);

  assert.deepEqual(given(await client.GET("/health")), { status: "ok" });
  assert.deepEqual(given(await client.GET("/ready")), { status: "ready" });
  const metrics = given(await client.GET("/metrics", { parseAs: "text" }));
  assert.match(metrics, /^pypi_stats_requests_total/m);
}

async function callDumps(): Promise<void> {
  const dumps = given(await client.GET("/api/dumps"));
  const [dump] = dumps.data;
  assert(dump && dumps.data.length === 1);
  assert.equal(dump.source, "sample");
  const file = given(
    await client.GET("/api/dumps/{name}", {
      params: { path: { name: dump.name } },
      parseAs: "arrayBuffer",
    }),
  );
  assert.equal(file.byteLength, dump.bytes);
}

async function callInVain(): Promise<void> {
  const missing = await client.GET("/api/packages/{package}/recent", {
    params: { path: { package: "no-such-package" } },
  });
  const notFound: Problem | undefined = missing.error;
  assert(notFound);
  assert.equal(notFound.status, 404);
  assert.match(notFound.detail, /no-such-package/);
  assert.equal(notFound.errors, undefined);

  const wrong = await client.GET("/api/packages/{package}/recent", {
    // @ts-expect-error: the type refuses it, and so does the service.
    params: { ...params, query: { period: "year" } },
  });
  assert.equal(wrong.error?.status, 422);
  assert.equal(wrong.error.errors?.[0]?.parameter, "period");
}

await callPackages();
await callPythonSupport();
await callManyPackages();
await callBreakdowns();
await callRankings();
await callStatus();
await callDumps();
await callInVain();
