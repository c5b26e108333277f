(function () {
  var root = document.documentElement;
  var dark = window.matchMedia && window.matchMedia("(prefers-color-scheme: dark)").matches;
  if (location.hash === "#dark") dark = true;
  function apply() { root.dataset.theme = dark ? "dark" : "light"; }
  apply();
  document.addEventListener("DOMContentLoaded", function () {
    document.querySelector("button.theme").addEventListener("click", function () { dark = !dark; apply(); });
  });
})();
