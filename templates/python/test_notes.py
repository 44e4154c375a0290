"""The flake's check: `nix flake check` runs it, and rei runs it for every candidate."""

import unittest

from notes import NOTES_MAX, Notes


class TestNotes(unittest.TestCase):
    def test_notes_are_numbered_from_one(self):
        notes = Notes()
        self.assertEqual([notes.add("a"), notes.add("b")], [1, 2])
        self.assertEqual(notes.get(2), "b")

    def test_a_missing_note_is_none(self):
        notes = Notes()
        for number in [-1, 0, 1]:
            self.assertIsNone(notes.get(number))

    def test_the_number_of_notes_is_bounded(self):
        notes = Notes()
        for _ in range(NOTES_MAX):
            notes.add("x")
        with self.assertRaises(ValueError):
            notes.add("one more")


if __name__ == "__main__":
    unittest.main()
