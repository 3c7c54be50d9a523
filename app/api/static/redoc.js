// Addresses are relative to the page, which may stand behind a proxy's prefix.
Redoc.init("openapi.json", {}, document.getElementById("page"));
