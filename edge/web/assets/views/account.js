// Sign up or log in, on the way into the line.

import { call, keepSession } from "../api.js";
import { h, show } from "../dom.js";
import { t } from "../i18n.js";

export function accountView({ state, go, fail }) {
  let signingUp = true;

  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const body = { email: form.get("email"), password: form.get("password") };
    const button = event.target.querySelector("button");
    button.disabled = true;
    try {
      keepSession(await call("POST", signingUp ? "/api/auth/signup" : "/api/auth/login", { body }));
      await go(state.event ? "line" : "events", state);
    } catch (problem) {
      fail(problem);
    } finally {
      button.disabled = false;
    }
  };

  const draw = () =>
    show(
      h("h1", { text: t("account_title") }),
      h("p", { text: t("account_lead") }),
      h("form", { onsubmit: submit },
        h("label", {}, t("email"), h("input", { name: "email", type: "email", autocomplete: "email", required: true })),
        h("label", {}, t("password"),
          h("input", { name: "password", type: "password", minlength: 10, maxlength: 128, required: true,
            autocomplete: signingUp ? "new-password" : "current-password" })),
        h("button", { class: "primary", text: t(signingUp ? "sign_up" : "log_in") })),
      h("button", { type: "button", class: "quiet", text: t(signingUp ? "have_account" : "no_account"),
        onclick: () => { signingUp = !signingUp; draw(); } }),
    );

  draw();
}
