"""The flake's check: `nix flake check`, and rei's for every candidate."""

import unittest

from notes import NOTES_MAX, Notes


class TestNotes(unittest.TestCase):
    def test_notes_are_numbered_from_one(self):
        notes = Notes()
        self.assertEqual([notes.add("a"), notes.add("b")], [1, 2])
        self.assertEqual(notes.get(2), "b")

    def test_what_is_not_there_is_none(self):
        notes = Notes()
        for number in [-1, 0, 1]:
            self.assertIsNone(notes.get(number))

    def test_there_is_a_bound(self):
        notes = Notes()
        for _ in range(NOTES_MAX):
            notes.add("x")
        with self.assertRaises(ValueError):
            notes.add("one more")


if __name__ == "__main__":
    unittest.main()
