// Addresses are relative to the page, so that they work behind a proxy with a prefix.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  displayRequestDuration: true,
  // Collapse the list of schemas at the end: operations already show their own.
  defaultModelsExpandDepth: 0,
  // Fill in "Try it out" with the name of an existing dump, if there is one.
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
