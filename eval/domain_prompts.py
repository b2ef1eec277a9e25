"""What people ask a medical model for beside short questions: to sum up, to explain, to go on. Both models get the same words.

Written for this project. There is no expected answer: they are for people to read side by side.
"""

from __future__ import annotations

PROMPTS = (
    (
        "summary",
        "Summarize in one sentence: A 58-year-old woman has had a dry cough for three weeks. She takes lisinopril for high blood "
        "pressure, which was begun a month ago. Her chest is clear and she has no fever. The drug was changed to losartan.",
    ),
    (
        "summary",
        "Summarize for the patient in plain words: The blood test shows a low hemoglobin and a low ferritin. Iron tablets are to "
        "be taken for three months, and the cause of the loss of blood is to be looked for.",
    ),
    ("explanation", "Explain to a person without medical training what an antibody is."),
    ("explanation", "Explain why people with type 1 diabetes need insulin."),
    ("unfinished sentence", "Complete the sentence: The most common side effects of ibuprofen are"),
    ("unfinished sentence", "Complete the sentence: A stroke should be suspected when somebody suddenly"),
)
