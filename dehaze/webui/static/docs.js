// The server's OpenAPI description as a page; everything comes from this server.
(async () => {
  "use strict";
  function make(tag, text, ...children) {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    made.append(...children);
    return made;
  }
  const root = document.getElementById("docs");
  const api = await (await fetch("/openapi.json")).json();
  const resolve = (schema) => schema && schema.$ref
    ? api.components.schemas[schema.$ref.split("/").pop()] : schema;
  const kind = (schema) => {
    if (!schema) return "";
    if (schema.$ref) return schema.$ref.split("/").pop();
    if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
    if (schema.type === "array") return `list of ${kind(schema.items)}`;
    return schema.type || "";
  };
  const range = (schema) => [schema, ...(schema.anyOf || [])].map((one) =>
    one.minimum !== undefined ? `${one.minimum} to ${one.maximum}` : "").join("");
  function table(headings, rows) {
    const made = make("table");
    made.append(make("tr", "", ...headings.map((heading) => make("th", heading))));
    for (const row of rows) made.append(make("tr", "", ...row.map((cell) => make("td", cell))));
    const box = make("div", "", made);
    box.className = "scroll";
    return box;
  }
  const here = location.origin;
  root.append(make("p", `${api.info.description} Version ${api.info.version}. `),
    make("p", "The description for programs is at "));
  const link = make("a", "/openapi.json");
  link.href = "/openapi.json";
  root.lastChild.append(link, ".");
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, call] of Object.entries(methods)) {
      const heading = make("h2", `${method.toUpperCase()} ${path}`);
      root.append(heading, make("p", `${call.summary}.`));
      if (call.requestBody) {
        root.append(make("p", `Body: ${call.requestBody.description}`),
          make("pre", `curl --fail-with-body --data-binary @photo.jpg '${here}${path}?strength=0.8' -o result`));
      } else {
        root.append(make("pre", `curl ${here}${path}`));
      }
      if (call.parameters) {
        root.append(table(["parameter", "kind", "range", "default", "meaning"], call.parameters.map((one) => [
          one.name, kind(one.schema), range(one.schema), String(one.schema.default ?? ""),
          one.description || one.schema.description || "",
        ])));
      }
      root.append(table(["answer", "content", "meaning"], Object.entries(call.responses).map(
        ([status, answer]) => [status,
          Object.entries(answer.content || {}).map(([type, { schema }]) => `${type} ${schema && schema.$ref ? kind(schema) : ""}`).join(", "),
          answer.description])));
    }
  }
  root.append(make("h2", "What the JSON holds"));
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    if (!schema.properties) continue;
    root.append(make("h3", name), make("p", resolve(schema).description || ""),
      table(["field", "kind", "meaning"], Object.entries(schema.properties).map(([field, one]) =>
        [field, kind(one), one.description || ""])));
  }
})();
