// Addresses are relative to the page, which may stand behind a proxy's prefix.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  displayRequestDuration: true,
  // The schemas, below the operations that show them already, are folded up.
  defaultModelsExpandDepth: 0,
});
