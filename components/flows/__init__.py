"""The step `flows`: ask a served variant what the application asks, and check its answers.

asking          send the flows, several at a time; what was sent and answered
rubrics         the checks with a judge's verdicts on the rubrics
checked         the checks of each answer; the records and the scores for the gate
asked_alone     the flows of a server that no run started
"""
