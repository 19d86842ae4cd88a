//! `${VAR}` and `${VAR:-default}` in the values of a config.
//!
//! The parser expands them, after it has read the document: so a variable's value cannot change the document, and is never
//! expanded again. It does so in plain and quoted values alike, by the rules of Docker Compose, which differ from ours in two
//! points: `$VAR` is expanded, too, and a variable that is not set is empty. Therefore the parser gets `$$VAR` and `${VAR?}`.

/// A text in which the parser finds our rules.
pub(super) struct ForParser {
    pub text: String,
    /// Line and column of every character that the original does not have, both from 1.
    inserted: Vec<(u64, u64)>,
}

impl ForParser {
    pub(super) fn new(original: &str) -> Self {
        let mut rewritten = Self { text: String::with_capacity(original.len()), inserted: Vec::new() };
        for (number, line) in (1..).zip(original.split_inclusive('\n')) {
            rewritten.add(number, line);
        }
        rewritten
    }

    fn add(&mut self, number: u64, line: &str) {
        let begin = self.text.len();
        let mut rest = line;
        while let Some((before, after)) = rest.split_once('$') {
            self.text.push_str(before);
            self.text.push('$');
            if let Some(after) = after.strip_prefix('$') {
                self.text.push('$');
                rest = after;
            } else if let Some(after) = after.strip_prefix('{') {
                let is_of_name = |letter: char| letter == '_' || letter.is_ascii_alphanumeric();
                let (name, after) = after.split_at(after.find(|letter| !is_of_name(letter)).unwrap_or(after.len()));
                self.text.push('{');
                self.text.push_str(name);
                if after.starts_with('}') && !name.is_empty() {
                    self.insert(number, begin, '?');
                }
                rest = after;
            } else {
                self.insert(number, begin, '$');
                rest = after;
            }
        }
        self.text.push_str(rest);
    }

    fn insert(&mut self, line: u64, begin: usize, letter: char) {
        let column = self.text[begin..].chars().count() as u64 + 1;
        self.inserted.push((line, column));
        self.text.push(letter);
    }

    /// The column in the original.
    pub(super) fn column(&self, line: u64, column: u64) -> u64 {
        let before = self.inserted.iter().filter(|inserted| inserted.0 == line && inserted.1 < column);
        column - before.count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_those_of_the_original() {
        let original = "a: $x\nb: [é${B}, $$, ${C:-$d}, e]\n";
        let rewritten = ForParser::new(original);
        assert_eq!(rewritten.text, "a: $$x\nb: [é${B?}, $$, ${C:-$$d}, e]\n");
        let place = |letter: char, text: &str| {
            let line = text.lines().nth(1).unwrap();
            line.chars().position(|found| found == letter).unwrap() as u64 + 1
        };
        for letter in ['é', 'B', 'C', 'd', 'e'] {
            assert_eq!(rewritten.column(2, place(letter, &rewritten.text)), place(letter, original), "{letter}");
        }
    }
}
