// <registry-quota-warning workspace="acme" api="https://quota.example.com" token="rq_…">
//
// Shows a workspace's warning on any page, in the words of registry-quota's own pages: from 70 % of the
// quota on, and nothing below it, while it loads, or when anything fails. `token` is a short-lived API
// token with the scope `read` on that workspace; the page's origin has to be in RQ_CORS_ORIGINS. It
// looks again every `refresh` seconds (300; 0: never). Everything is inside a shadow root: no style of
// the page gets in, none gets out.
(() => {
  "use strict";

  const UNITS = ["B", "KB", "MB", "GB", "TB", "PB", "EB"];
  const USUAL_SECONDS = 300;
  const TIMEOUT_MS = 10000;
  const STYLE = `
    :host { display: block; }
    :host(:not([severity])) { display: none; }
    div {
      border: 1px solid #b7791f; border-left-width: 4px; border-radius: 6px;
      background: #fffaeb; color: #4a3206; padding: 12px 16px;
      font: 14px/1.5 system-ui, sans-serif;
    }
    strong { display: block; font-size: 15px; }
    p { margin: 2px 0 0; }
    :host([severity="critical"]) div { border-color: #c53030; background: #fff5f5; color: #5c1313; }
    @media (prefers-color-scheme: dark) {
      div { background: #2b2413; color: #f6e3b0; border-color: #b7791f; }
      :host([severity="critical"]) div { background: #331a1c; color: #fbd0d0; border-color: #e05656; }
    }`;

  function sizeText(bytes) {
    let power = 0;
    while (power < UNITS.length - 1 && bytes >= 1024 ** (power + 1)) power += 1;
    let tenths = Math.round((bytes / 1024 ** power) * 10);
    if (tenths === 10240 && power < UNITS.length - 1) {
      tenths = 10; // 1023.99 KB would read as 1024 KB
      power += 1;
    }
    return `${tenths / 10} ${UNITS[power]}`;
  }

  function warningOf(used, quota) {
    if (!(quota > 0) || !(used >= 0) || used * 100 < 70 * quota) return null;
    const figures = `Using ${sizeText(used)} of ${sizeText(quota)} (${Math.round((used / quota) * 100)}%).`;
    if (used >= quota) {
      return {
        severity: "critical",
        title: "Registry Quota Exceeded",
        text: `${figures} Oldest images will be automatically cleaned up on next build.`,
      };
    }
    if (used * 100 >= 90 * quota) {
      return {
        severity: "critical",
        title: "Registry Almost Full",
        text: `${figures} Oldest images will be automatically cleaned up on next build.`,
      };
    }
    return {
      severity: "warning",
      title: "Registry Usage Warning",
      text: `${figures} Consider adding your own registry or cleaning up old images.`,
    };
  }

  class RegistryQuotaWarning extends HTMLElement {
    static observedAttributes = ["workspace", "api", "token", "refresh"];
    #root = this.attachShadow({ mode: "open" });
    #timer = null;
    #asking = null;

    constructor() {
      super();
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(STYLE);
      this.#root.adoptedStyleSheets = [sheet];
    }

    connectedCallback() {
      this.#start();
    }

    disconnectedCallback() {
      this.#stop();
    }

    attributeChangedCallback(_name, before, after) {
      if (this.isConnected && before !== after) this.#start();
    }

    #start() {
      this.#stop();
      this.#show(null);
      this.#look();
      const refresh = Number(this.getAttribute("refresh") ?? USUAL_SECONDS);
      if (refresh > 0) this.#timer = setInterval(() => this.#look(), Math.max(refresh, 5) * 1000);
    }

    #stop() {
      clearInterval(this.#timer);
      this.#asking?.abort();
      this.#asking = null;
    }

    async #look() {
      const workspace = this.getAttribute("workspace");
      const token = this.getAttribute("token");
      if (!workspace || !token) return;
      this.#asking?.abort();
      const asking = (this.#asking = new AbortController());
      const timeout = setTimeout(() => asking.abort(), TIMEOUT_MS);
      let warning = null;
      try {
        const base = new URL(this.getAttribute("api") || ".", document.baseURI).href.replace(/\/$/, "");
        const response = await fetch(`${base}/v1/workspaces/${encodeURIComponent(workspace)}/usage`, {
          headers: { Authorization: `Bearer ${token}` },
          credentials: "omit",
          cache: "no-store",
          signal: asking.signal,
        });
        if (response.ok) {
          const usage = await response.json();
          warning = warningOf(usage.usage_bytes, usage.quota_bytes);
        }
      } catch {
        // Nothing is shown: a page must not suffer from a warning that cannot be had.
      } finally {
        clearTimeout(timeout);
      }
      if (this.#asking === asking) this.#show(warning);
    }

    #show(warning) {
      if (warning === null) {
        this.removeAttribute("severity");
        this.#root.replaceChildren();
        return;
      }
      const box = document.createElement("div");
      box.setAttribute("role", warning.severity === "critical" ? "alert" : "status");
      const title = document.createElement("strong");
      title.textContent = warning.title;
      const text = document.createElement("p");
      text.textContent = warning.text;
      box.append(title, text);
      this.#root.replaceChildren(box);
      this.setAttribute("severity", warning.severity);
    }
  }

  if (!customElements.get("registry-quota-warning")) {
    customElements.define("registry-quota-warning", RegistryQuotaWarning);
  }
})();
