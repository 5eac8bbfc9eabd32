// Numbers of the line in words that a tired person understands.

import { count, t } from "./i18n.js";

const LONG_MINUTES = 100;

/** {eta_p10_seconds: 700, eta_p90_seconds: 1080} → "11–18 min": eight in ten people wait this long. */
export function waitText({ eta_p10_seconds: least = 0, eta_p90_seconds: most = 0 }) {
  if (!most) return "–";
  if (most < 60) return t("soon");
  const to = Math.ceil(most / 60);
  const from = Math.floor(least / 60);
  if (to > LONG_MINUTES) return t("hours", halves(Math.floor(least / 1800)), halves(Math.ceil(most / 1800)));
  return from < 1 ? t("minutes_at_most", to) : t("minutes", from, to);
}

/** Half hours as hours: 3 → "1.5". */
function halves(number) {
  return count(number / 2);
}

const CHANCES = [[0.7, 3, 4], [0.58, 2, 3], [0.42, 1, 2], [0.29, 1, 3], [0.225, 1, 4], [0.15, 1, 5], [0.075, 1, 10]];
const GOOD_ODDS = 0.9;

/** What to tell about the chance of seats, or null while there is nothing to worry about. */
export function oddsText({ odds }) {
  if (odds === undefined || odds >= GOOD_ODDS) return null;
  const chance = CHANCES.find(([least]) => odds >= least);
  return chance ? t("odds", chance[1], chance[2]) : t("odds_slim");
}

const GENERAL_LANE = 0;

/** The lane, where it is not the one for everybody. */
export function laneText({ lane, lane_name: name }) {
  return lane === undefined || lane === GENERAL_LANE ? null : t("lane", name || count(lane));
}
