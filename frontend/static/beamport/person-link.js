// Takes the code out of the address into the form, and over a sign-in and the rules of use in this tab; without script it
// is pasted.

const KEY = "person-link";
const field = document.querySelector("#code");
const code = location.hash.slice(1) || sessionStorage.getItem(KEY) || "";

if (location.hash) history.replaceState(null, "", location.pathname + location.search);
if (field) {
  field.value ||= code;
  sessionStorage.removeItem(KEY);
} else if (code) {
  sessionStorage.setItem(KEY, code);
}
