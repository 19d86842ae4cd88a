// Uses the admin page in a headless Chromium as an operator would, and prints what was seen, one JSON object.
// Arguments: ADDRESS [FOLDER SEARCH]. Screenshots go to FOLDER; SEARCH is typed into the search field.
// With the address alone it only looks: all that is on the page after some answers.
const { accessSync } = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");

const [address, folder, wanted] = process.argv.slice(2);

function browser() {
  for (const place of process.env.PATH.split(path.delimiter)) {
    const program = path.join(place, "chromium");
    try {
      accessSync(program);
      return program;
    } catch {
      continue;
    }
  }
  throw new Error("no chromium on the path");
}

// By its own clock: when the first row was drawn, and how long it was busy at one go since.
function watch() {
  window.longest = 0;
  new PerformanceObserver((list) => {
    for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration);
  }).observe({ entryTypes: ["longtask"] });
  new MutationObserver((_, observer) => {
    if (!document.querySelector("#rows tr")) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => (window.drawn = performance.now())));
  }).observe(document, { childList: true, subtree: true });
}

const rows = (page) =>
  page.$$eval("#rows tr", (all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));

async function main() {
  const chrome = await chromium.launch({
    executablePath: browser(),
    // The rest keeps it from looking for anything but the page.
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
  const page = await chrome.newPage({ viewport: { width: 1280, height: 800 }, colorScheme: "light" });
  // Other tests may keep the machine busy.
  page.setDefaultTimeout(120_000);
  const seen = { complaints: [], requests: [] };
  page.on("console", (message) => seen.complaints.push(message.text()));
  page.on("pageerror", (error) => seen.complaints.push(String(error)));
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("requestfailed", (request) => seen.complaints.push(`${request.url()} ${request.failure().errorText}`));
  const picture = (name) => page.screenshot({ path: path.join(folder, `${name}.png`) });
  // What is asked of the page twice: the state of the second answer, the rates included.
  const answers = async (count) => {
    for (let number = 0; number < count; number++) await page.waitForResponse((answer) => answer.url().endsWith("/status"));
  };

  await page.addInitScript(watch);
  await page.goto(`http://${address}/`);
  if (folder === undefined) {
    await answers(2);
    await page.waitForFunction(() => window.drawn);
    // What is shown, and what is not.
    seen.text = await page.evaluate(() => document.body.innerText + document.documentElement.outerHTML);
    await chrome.close();
    console.log(JSON.stringify(seen));
    return;
  }
  await page.waitForFunction(() => window.drawn);
  seen.drawn_ms = await page.evaluate(() => window.drawn);
  seen.first = await rows(page);
  await answers(1);
  await picture("light");
  await page.locator("body").screenshot({ path: path.join(folder, "whole.png") });
  await page.emulateMedia({ colorScheme: "dark" });
  await picture("dark");
  seen.backgrounds = [];
  for (const colorScheme of ["dark", "light"]) {
    await page.emulateMedia({ colorScheme });
    seen.backgrounds.push(await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor));
  }
  await page.setViewportSize({ width: 390, height: 800 });
  await picture("narrow");
  await page.setViewportSize({ width: 1280, height: 800 });

  await page.getByRole("searchbox").fill(wanted);
  seen.found = await rows(page);
  await picture("search");
  await answers(1);
  seen.found_after_refresh = await rows(page);
  await page.getByRole("searchbox").fill("");

  for (const column of ["instance", "published"]) {
    for (const click of ["", "_again"]) {
      await page.getByRole("button", { name: column, exact: true }).click();
      seen[`by_${column}${click}`] = await rows(page);
    }
  }
  await picture("sorted");

  await page.getByRole("checkbox", { name: "only problems" }).check();
  seen.problems = await rows(page);
  await picture("problems");
  await page.getByRole("checkbox", { name: "only problems" }).uncheck();

  await answers(2);
  seen.of_a_condition = seen.first;
  const condition = page.locator("#advice button").last();
  if (await condition.count()) {
    await condition.click();
    seen.of_a_condition = await rows(page);
    await page.getByRole("searchbox").fill("");
  }
  seen.busy_ms = await page.evaluate(() => window.longest);
  seen.text = await page.evaluate(() => document.body.innerText);
  await chrome.close();
  console.log(JSON.stringify(seen));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
