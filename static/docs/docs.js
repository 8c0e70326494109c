// Draws the API's documentation. A file of its own, since the page allows no inline script.
// The page says where the description is: <div id="swagger-ui" data-url="/openapi.json">
"use strict";

addEventListener("DOMContentLoaded", () => {
  const place = document.getElementById("swagger-ui");
  SwaggerUIBundle({
    domNode: place,
    url: place.dataset.url,
    deepLinking: true,
    displayOperationId: true,
    displayRequestDuration: true,
    validatorUrl: null, // the default asks a service outside
    presets: [SwaggerUIBundle.presets.apis],
    layout: "BaseLayout",
  });
});
