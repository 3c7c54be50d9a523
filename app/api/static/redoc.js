// Addresses are relative to the page, so that they work behind a proxy with a prefix.
Redoc.init("openapi.json", {}, document.getElementById("page"));
