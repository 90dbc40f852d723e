"""A judge compares or grades replies of two models: an OpenAI-compatible model that the user names.

chat_questions                  questions of one or more turns: MT-Bench's rows, a file of prompts
judging_options                 the options of the commands
contestants                     the models whose replies are judged, and where the replies come from
replies, kept_lines             ask a model each question; keep replies and judgements in files that a rerun reads
judge_endpoint, judge_identity  the judge: its requests, and the check that it is none of the judged models
judge_prompts                   the versioned prompts, and how an answer to one is read
grading, pairwise               grades from 1 to 10; pairs, asked in both orders
rubric                          whether one answer meets a rubric, for the flows
grade_scores, arena             the results with bounds: grades by category; win rates and Bradley-Terry strengths
deepeval_model                  the judge, or a model that is tested, for DeepEval
judged_results                  the outcome as one JSON file
vibe_page, votes                a page on which people vote blind, and the votes read back
"""
