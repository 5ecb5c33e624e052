// Opens a report in a real headless Chromium, light and dark, and fails on any console message, any
// request but the page itself, a chart without size, or one that Tab does not reach.
//   npm install --ignore-scripts @sparticuz/chromium@153 puppeteer-core@25
//   batchgen report out.parquet && node jobs/check_report.mjs out.parquet.html [PICTURE_PREFIX [HEIGHT]]
// Outside of Amazon's machines the browser's own libraries are unpacked only with
//   AWS_EXECUTION_ENV=AWS_Lambda_nodejs22.x AWS_LAMBDA_JS_RUNTIME=nodejs22.x
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const [page, picture, height] = process.argv.slice(2);
const address = pathToFileURL(resolve(page)).href;
const executablePath = await chromium.executablePath();
const browser = await puppeteer.launch({ args: chromium.args, executablePath, headless: "shell" });
const wrong = [];
for (const value of ["light", "dark"]) {
  const tab = await browser.newPage();
  await tab.setViewport({ width: 1200, height: 900 });
  await tab.emulateMediaFeatures([{ name: "prefers-color-scheme", value }]);
  tab.on("console", (message) => wrong.push(`${value}: ${message.text()}`));
  tab.on("pageerror", (error) => wrong.push(`${value}: ${error}`));
  tab.on("request", (request) => {
    if (request.url() !== address && !request.url().startsWith("data:")) wrong.push(request.url());
  });
  await tab.goto(address);
  const charts = await tab.$$eval("svg", (all) =>
    all.map((one) => [one.id, one.getBoundingClientRect().height]),
  );
  for (const [name, height] of charts) if (height < 50) wrong.push(`${name} is ${height} high`);
  const reached = new Set();
  for (let press = 0; press < charts.length; press++) {
    await tab.keyboard.press("Tab");
    reached.add(await tab.evaluate(() => document.activeElement.id));
  }
  for (const [name] of charts) if (!reached.has(name)) wrong.push(`Tab does not reach ${name}`);
  const top = height ? { clip: { x: 0, y: 0, width: 1200, height: Number(height) } } : { fullPage: true };
  if (picture) await tab.screenshot({ path: `${picture}-${value}.png`, ...top });
  await tab.close();
  console.log(`${value}: ${charts.length} charts, ${wrong.length} complaints`);
}
await browser.close();
for (const one of wrong) console.log(one);
process.exit(wrong.length ? 1 : 0);
