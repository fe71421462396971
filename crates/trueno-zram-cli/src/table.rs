//! Plain text tables: a heading, aligned columns, two blanks between them.

/// How the cells of a column are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows of text under named columns.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(columns: &[(&str, Align)]) -> Table {
        Table {
            columns: columns
                .iter()
                .map(|(name, align)| (name.to_string(), *align))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row below the others; a missing cell is empty.
    ///
    /// # Panics
    /// If there are more cells than columns.
    pub fn row(&mut self, cells: Vec<String>) {
        assert!(cells.len() <= self.columns.len(), "more cells than columns");
        self.rows.push(cells);
    }

    /// The table as text, a line feed after each row; without the heading if so wanted.
    pub fn render(&self, headings: bool) -> String {
        let mut lines: Vec<Vec<&str>> = Vec::with_capacity(self.rows.len() + 1);
        if headings {
            lines.push(self.columns.iter().map(|(name, _)| name.as_str()).collect());
        }
        lines.extend(
            self.rows
                .iter()
                .map(|row| row.iter().map(String::as_str).collect()),
        );

        let width = |column: usize| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|c| width(c).unwrap_or(0))
            .collect();

        let mut text = String::new();
        for line in &lines {
            let mut shown = String::new();
            for (column, (_, align)) in self.columns.iter().enumerate() {
                let cell = line.get(column).copied().unwrap_or("");
                let width = widths[column];
                if column > 0 {
                    shown.push_str("  ");
                }
                match align {
                    Align::Left => shown.push_str(&format!("{cell:<width$}")),
                    Align::Right => shown.push_str(&format!("{cell:>width$}")),
                }
            }
            text.push_str(shown.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_flush_right_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("SIZE", Align::Right),
            ("MOUNTPOINT", Align::Left),
        ]);
        table.row(vec!["/dev/ublkb0".into(), "8G".into(), "/mnt".into()]);
        table.row(vec!["/dev/loop1".into(), "512M".into()]);
        assert_eq!(
            table.render(true),
            "NAME         SIZE  MOUNTPOINT\n\
             /dev/ublkb0    8G  /mnt\n\
             /dev/loop1   512M\n"
        );
        assert_eq!(table.render(false).lines().count(), 2);
    }

    #[test]
    fn an_empty_table_is_its_heading() {
        let table = Table::new(&[("NAME", Align::Left)]);
        assert_eq!(table.render(true), "NAME\n");
        assert_eq!(table.render(false), "");
    }
}
