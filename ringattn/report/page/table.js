/* Sorting of the table of all figures: first choice ascending, second descending; rows without a value stay last. */

function makeSortable(table) {
  const heads = [...table.querySelectorAll("thead tr:last-child th")];
  const body = table.tBodies[0];
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (column === 0) return cell.textContent;
    if (!cell || cell.dataset.value === undefined) return null;
    /* What is no number is the worst that there is. */
    const value = Number(cell.dataset.value);
    return Number.isNaN(value) ? Infinity : value;
  };
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => ({ row, value: valueOf(row, column) }));
      rows.sort((a, b) => {
        if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
        return order * (typeof a.value === "string" ? a.value.localeCompare(b.value, "en", { numeric: true }) : a.value - b.value);
      });
      body.append(...rows.map(({ row }) => row));
    });
  });
}
