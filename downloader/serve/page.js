languages(JSON.parse(document.getElementById("words").textContent), () => {}).begin();
