// Addresses are relative to the page, which may stand behind a proxy's prefix.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  displayRequestDuration: true,
  // The schemas, below the operations that show them already, are folded up.
  defaultModelsExpandDepth: 0,
  // "Try it out" is filled in with a dump that exists, if there is one.
  responseInterceptor: async (response) => {
    if (response.url.endsWith("/openapi.json")) {
      const [dump] = (await (await fetch("api/dumps")).json()).data ?? [];
      const description = JSON.parse(response.text);
      if (dump) description.paths["/api/dumps/{name}"].get.parameters[0].example = dump.name;
      response.text = JSON.stringify(description);
    }
    return response;
  },
});
