// The simplest flash sale, as `python -m bench k6` has it: holds of one unit of one SKU, at a constant arrival rate.
// Everything comes from the environment: URL, TOKEN, NAME, SKU, LOCATION, TTL_S, RATE, SECONDS, CONNECTIONS, SUMMARY.
import http from "k6/http";
import exec from "k6/execution";
import { Counter, Trend } from "k6/metrics";

const rate = Number(__ENV.RATE);
const url = `${__ENV.URL}/v1/reservations`;
const body = JSON.stringify({
  lines: [{ sku: __ENV.SKU, location: __ENV.LOCATION, quantity: 1 }],
  ttl_seconds: Number(__ENV.TTL_S),
});
// What k6 calls the duration begins when a request is sent. This one begins when it was due, in whole milliseconds.
const fromDue = new Trend("from_due", true);
const held = new Counter("held");

export const options = {
  discardResponseBodies: true,
  scenarios: {
    holds: {
      executor: "constant-arrival-rate",
      rate,
      timeUnit: "1s",
      duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: Number(__ENV.CONNECTIONS),
      gracefulStop: "15s",
    },
  },
  summaryTrendStats: ["count", "avg", "med", "p(90)", "p(99)", "p(99.9)", "max"],
};

export default function () {
  const number = exec.scenario.iterationInTest;
  const answer = http.post(url, body, {
    headers: {
      Authorization: `Bearer ${__ENV.TOKEN}`,
      "Content-Type": "application/json",
      "Idempotency-Key": `${__ENV.NAME}-${number}`,
    },
  });
  fromDue.add(Date.now() - (exec.scenario.startTime + (number * 1000) / rate));
  if (answer.status === 201) held.add(1);
}

export function handleSummary(data) {
  return { [__ENV.SUMMARY]: JSON.stringify(data.metrics) };
}
