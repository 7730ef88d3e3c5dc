// A page that the back button brings out of the browser's memory is as old as when it was left.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
